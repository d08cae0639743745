"""A real SLURM on this machine: a controller and two nodes that listen on loopback only.

The nodes pretend to have more cores and memory than the machine has, and two GPUs each, which are
device files that read as empty. No accounting, no authentication. Needs root: nodes start their
jobs for any user. To try things by hand: ``python tests/cluster/slurm.py`` keeps it until Ctrl-C.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# SLURM's programs read it from there; the plugin for Snakemake passes no other place on to its jobs.
ETC = Path("/etc/slurm")
PACKAGES = ("slurmctld", "slurmd", "slurm-client")
MARK = "# Made by tests/cluster/slurm.py; removed when the test ends.\n"

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
SchedulerParameters=sched_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} {node}
PartitionName=cpu Nodes=n1,n2 MaxTime=60-0 Default=YES
PartitionName=gpu Nodes=n1,n2 MaxTime=60-0
PartitionName=scavenge Nodes=n1,n2 MaxTime=60-0 GraceTime=60
PartitionName=standby Nodes=n1,n2 MaxTime=60-0
PartitionName=urgent Nodes=n1,n2 MaxTime=60-0 PriorityTier=2 PreemptMode=OFF
"""
NODE = "CPUs=16 RealMemory=64000 Gres=gpu:a100:2"
NODES = ("n1", "n2")


class CannotRun(Exception):
    """SLURM cannot be started here, and why."""


def ensure_installed() -> None:
    """Installs Debian's packages where the tests have to run (CI=true); else CannotRun says how."""
    if os.geteuid() != 0:
        raise CannotRun("a SLURM of one's own needs root")
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch")):
        if os.environ.get("CI") != "true":
            raise CannotRun(f"SLURM is not installed: apt-get install {' '.join(PACKAGES)}")
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)
    config = ETC / "slurm.conf"
    if config.exists() and not config.read_text().startswith(MARK):
        raise CannotRun(f"this machine belongs to a cluster: {config} is there")


@contextmanager
def slurm() -> Iterator["Cluster"]:
    """A running cluster; when the block ends its jobs and its daemons are ended too."""
    ensure_installed()
    _end_former()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder)
    try:
        cluster.configure()
        cluster.start_controller()
        for node in NODES:
            cluster.start_node(node)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Files and daemons of a SLURM in ``folder``, and what may happen to them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def configure(self) -> None:
        controller_port, n1_port, n2_port = _free_ports(3)
        gpus = [self.folder / f"gpu{number}" for number in range(2)]
        for path in gpus:  # gres.conf wants devices: these are further /dev/null
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        config = CONFIG.format(
            host=socket.gethostname().split(".")[0],
            folder=self.folder,
            controller_port=controller_port,
            n1_port=n1_port,
            n2_port=n2_port,
            node=NODE,
        )
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(MARK + config)
        (ETC / "gres.conf").write_text(
            MARK + f"Name=gpu Type=a100 File={','.join(map(str, gpus))} Flags=no_gpu_env\n"
        )

    def start_controller(self) -> None:
        _run("slurmctld")
        wait_for(lambda: _answers("scontrol", "ping") and "UP" in ask("scontrol", "ping"))

    def start_node(self, node: str) -> None:
        _run("slurmd", "-N", node)
        wait_for(lambda: ask("sinfo", "-hN", "-n", node, "-p", "cpu", "-t", "idle,mix,alloc"))

    def restart_controller(self, down_s: float) -> None:
        """As after a crash: it is killed, and is back after ``down_s`` seconds."""
        self._end("slurmctld", signal.SIGKILL)
        time.sleep(down_s)
        self.start_controller()

    def kill_node(self, node: str) -> None:
        """A node that loses its power: all that runs on it ends at once, unheard."""
        jobs = ask("squeue", "-h", "-w", node, "-o", "%A").split()
        self._end(f"slurmd-{node}", signal.SIGKILL)
        for job in jobs:
            for daemon in _step_daemons(job):
                for process in [daemon, *_descendants(daemon)]:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    def stop(self) -> None:
        """Idempotent, also after a start that failed half-way."""
        with suppress(OSError, subprocess.SubprocessError):
            if jobs := ask("squeue", "-h", "-o", "%A").split():
                kill = ["scancel", "--full", "--signal=KILL"]
                for command in ([*kill, *jobs], ["scancel", *jobs]):
                    subprocess.run(command, check=False, timeout=20)
                wait_for(lambda: not ask("squeue", "-h", "-o", "%A"), 60)
        for daemon in (*(f"slurmd-{node}" for node in NODES), "slurmctld"):
            self._end(daemon, signal.SIGTERM)
        for name in ("slurm.conf", "gres.conf"):
            if (path := ETC / name).exists() and path.read_text().startswith(MARK):
                path.unlink()

    def _end(self, daemon: str, how: signal.Signals) -> None:
        try:
            process = int((self.folder / f"{daemon}.pid").read_text())
            os.kill(process, how)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return
        wait_for(lambda: not _runs(process), 60)
        (self.folder / f"{daemon}.pid").unlink(missing_ok=True)


def _end_former() -> None:
    """Ends what a test that was killed left running."""
    config = ETC / "slurm.conf"
    if config.exists():
        (folder,) = re.findall(r"^StateSaveLocation=(.*)/state$", config.read_text(), re.MULTILINE)
        Cluster(Path(folder)).stop()
        shutil.rmtree(folder, ignore_errors=True)


def ask(*command: str) -> str:
    """What a program of SLURM answers; nothing where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def wait_for(what: Callable, at_most_s: float = 120.0):
    """What ``what()`` gives as soon as it is something."""
    deadline = time.monotonic() + at_most_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing within {at_most_s:.0f} s")
        time.sleep(0.1)
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)


def _answers(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _runs(process: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _step_daemons(job: str) -> list[int]:
    """The slurmstepd processes of a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(f"slurmstepd: [{job}.".encode()):
                found.append(int(path.parent.name))
    return found


def _descendants(process: int) -> list[int]:
    children = []
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return [one for child in children for one in (child, *_descendants(child))]


if __name__ == "__main__":
    with slurm() as running:
        print(f"SLURM runs, its logs are in {running.folder}; Ctrl-C ends it", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            signal.pause()

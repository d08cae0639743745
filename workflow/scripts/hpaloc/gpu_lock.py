"""Which GPUs of a machine a job uses: Snakemake counts them, and says to no job which are its own.

Every GPU has a file, in a folder that all users of the machine share. Whoever holds the lock of
the file (``flock``) has the GPU. The system lets go of it when the process has ended, however it
ended, so that no lock outlives its job. The lock passes through ``exec`` and to forked processes;
processes that are started otherwise know by a variable that the GPUs are theirs.

Where somebody has chosen already (SLURM, Kubernetes, a user who sets CUDA_VISIBLE_DEVICES), only
among these is chosen. A lock has the UUID of its GPU: SLURM calls the GPU of each job 0 where it
shows the job no other, and one job may name by its number what another names by its UUID. Where the
driver's library for management (NVML) has no UUIDs, the names are compared. (CUDA numbers GPUs that
are not alike by their speed, unless CUDA_DEVICE_ORDER is PCI_BUS_ID; NVML never does.) Parts of a
GPU (MIG) are shared out like GPUs where they are named there. Cards of AMD have variables of their
own, and are not shared out.
"""

import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from hpaloc import nvml
from hpaloc.log import InputError
from hpaloc.preemption import TRY_AGAIN

log = logging.getLogger("hpaloc")

VISIBLE = "CUDA_VISIBLE_DEVICES"
# For the processes that the job starts: VISIBLE holds what it claimed.
CLAIMED = "HPALOC_GPUS_CLAIMED"
# How the names of parts of a GPU begin.
_MIG = "MIG-"
# Whoever waits is told so again.
_NAMED_AGAIN_S = 300


def claim_gpus(
    gpus: int, names: list[str] | None = None, folder: Path | None = None, every_s: float = 2.0
) -> None:
    """Claims as many GPUs for the life of this process, and shows it no others.

    Call it before CUDA starts. It waits until so many are free, and says who has them; SIGTERM
    ends it with status 75 then. Where exactly so many were chosen for this job from outside, they
    are taken even if another job uses them, which is said. Without any GPU it does nothing.

    ``names`` are the GPUs there are (those that torch sees), ``folder`` has the locks (in the
    folder for temporary files), ``every_s`` is how often a waiting job looks. Raises InputError
    where there are fewer GPUs than asked for, and where the locks cannot be used.
    """
    if gpus < 1 or CLAIMED in os.environ:
        return
    names = visible_gpus() if names is None else names
    if not names:
        return
    if gpus > len(names):
        among = f" of {VISIBLE}={os.environ[VISIBLE]}" if VISIBLE in os.environ else ""
        raise InputError(
            f"{gpus} GPUs are asked for and there are {len(names)}{among}: lower gpus_per_fold in"
            " the configuration, or run on a machine that has them."
        )
    if gpus > 1 and names[0].startswith(_MIG):
        raise InputError(
            f"{gpus} GPUs are asked for and {VISIBLE}={','.join(names)} names parts of GPUs (MIG),"
            " which cannot train a fold together: set gpus_per_fold to 1 in the configuration."
        )
    folder = _lock_folder() if folder is None else folder
    is_chosen = VISIBLE in os.environ and gpus == len(names)
    cards = _cards(names)
    claimed = _claim(gpus, cards, folder)
    if not claimed and is_chosen:
        log.warning(
            "%s=%s, chosen for this job, is used too: %s",
            VISIBLE, os.environ[VISIBLE], _holders(cards, folder),
        )  # fmt: skip
        claimed = names
    elif not claimed:
        claimed = _wait(gpus, cards, folder, every_s)
    if VISIBLE not in os.environ:
        # The numbers of nvidia-smi, and the same in every process.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ[VISIBLE] = ",".join(claimed)
    os.environ[CLAIMED] = str(gpus)
    log.info("GPUs of this job: %s (of %d)", os.environ[VISIBLE], len(names))


def visible_gpus() -> list[str]:
    """Names of the GPUs that torch could use, as CUDA_VISIBLE_DEVICES has them; starts no CUDA."""
    import torch

    if torch.version.hip:
        return []
    chosen = [name.strip() for name in os.environ.get(VISIBLE, "").split(",")]
    if chosen[0].startswith(_MIG):
        # CUDA counts one, however many are named, for a process can use one.
        return list(takewhile(lambda name: name.startswith(_MIG), chosen))
    count = _count_gpus()
    if VISIBLE in os.environ:
        # CUDA takes them up to the first that it does not know.
        return chosen[:count]
    # Torch also counts those that this process has no permission for; CUDA numbers the others.
    permitted = len(nvml.gpu_uuids()) or count
    return [str(number) for number in range(min(count, permitted))]


def _count_gpus() -> int:
    """How many torch sees. Where the driver's library for management (NVML) is missing torch starts
    CUDA to count them, which then no longer heeds the variable: another process counts there."""
    import torch

    manager, driver = nvml.load_library(nvml.NVML), nvml.load_library(nvml.DRIVER)
    if driver is None or (manager is not None and manager.nvmlInit() == 0):
        return torch.cuda.device_count()
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return int(words[-1]) if done.returncode == 0 and words else 0


def _lock_folder() -> Path:
    # The host's name, for a temporary folder that several machines share.
    return Path(tempfile.gettempdir()) / f"hpaloc_gpus_{socket.gethostname()}"


def _wait(gpus: int, cards: dict[str, str], folder: Path, every_s: float) -> list[str]:
    said, said_at = "", 0.0
    # There is nothing to store yet.
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TRY_AGAIN))
    try:
        while not (claimed := _claim(gpus, cards, folder)):
            holders = _holders(cards, folder)
            if holders != said or time.monotonic() - said_at > _NAMED_AGAIN_S:
                said, said_at = holders, time.monotonic()
                log.info("waiting for %d of %d GPUs; in use: %s", gpus, len(cards), holders)
            time.sleep(every_s)
    finally:
        signal.signal(signal.SIGTERM, former)
    return claimed


def _claim(gpus: int, cards: dict[str, str], folder: Path) -> list[str]:
    """The names of the first GPUs that are free, locked; none where there are too few of them."""
    locks: dict[str, int] = {}
    # One process at a time: two that want two each would otherwise take one each, and wait.
    with _door(folder):
        for name, card in cards.items():
            lock = _open(_file(folder, card))
            if len(locks) < gpus and _locked(lock):
                locks[name] = lock
            else:
                os.close(lock)
        if len(locks) < gpus:
            for lock in locks.values():
                os.close(lock)
            return []
        for lock in locks.values():
            os.set_inheritable(lock, True)  # the lock is held as long as anyone has it open
            _sign(lock)
    return list(locks)


@contextmanager
def _door(folder: Path) -> Iterator[None]:
    import fcntl  # Linux and macOS only, as is the need for it

    door = _open(folder / "door")
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise _unusable(folder, error) from None
    finally:
        os.close(door)


def _locked(lock: int) -> bool:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    """Opens a lock file, makes it where it is missing; everybody may use it."""
    # A link or a pipe that somebody has put there is not followed, nor waited for.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o1777)
            path.parent.chmod(0o1777)  # as the temporary folder itself, whatever the umask
        # Not with O_CREAT at once: the system refuses that for another user's file here.
        try:
            lock = os.open(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                made = os.open(path, flags | os.O_CREAT | os.O_EXCL)
                os.fchmod(made, 0o666)
                os.close(made)
            lock = os.open(path, flags)
    except OSError as error:
        raise _unusable(path.parent, error) from None
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        os.close(lock)
        raise InputError(f"{path}: no file, and cannot be the lock of a GPU. Remove it.")
    return lock


def _unusable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: the locks of the GPUs cannot be used ({error.strerror}). Mend the folder's"
        f" rights, name another one with TMPDIR, or choose GPUs for this job with {VISIBLE}."
    )


def _cards(names: list[str]) -> dict[str, str]:
    """The UUID of each GPU by its name; the name itself where the UUID is not known."""
    uuids = nvml.gpu_uuids()

    def card(name: str) -> str:
        if name.isdecimal() and int(name) < len(uuids):
            return uuids[int(name)] or name
        # The beginning of a UUID is enough for CUDA.
        found = [uuid for uuid in uuids if name and uuid.startswith(name)]
        return found[0] if len(found) == 1 else name

    return {name: card(name) for name in names}


def _file(folder: Path, card: str) -> Path:
    return folder / re.sub(r"[^\w.-]", "_", card)


def _sign(lock: int) -> None:
    """Writes into a lock who holds it."""
    about = {
        "pid": os.getpid(),
        "program": Path(sys.argv[0]).name,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with suppress(OSError):  # a full disk: others then wait for one that has no name
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(about).encode(), 0)


def _holders(cards: dict[str, str], folder: Path) -> str:
    """Who has which GPU, in words; of those that are held."""
    held = []
    with _door(folder):  # looking is locking, for a moment
        for name, card in cards.items():
            lock = _open(_file(folder, card))
            if not _locked(lock):
                held.append(f"{name} by {_holder(lock)}")
            os.close(lock)
    return ", ".join(held) or "one was let go just now"


def _holder(lock: int) -> str:
    try:
        about = json.loads(os.pread(lock, 1000, 0))
        return f"process {about['pid']} ({about['program']}) since {about['since']}"
    except (ValueError, KeyError, TypeError, OSError):  # it took the lock just now
        return "another process"

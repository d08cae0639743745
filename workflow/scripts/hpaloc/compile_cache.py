"""Where torch's compiler keeps code from one process to the next, and what it needs of a machine."""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import struct
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

log = logging.getLogger("hpaloc")

FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_TRITON_FOLDER = "TRITON_CACHE_DIR"


def use_folder(cpuinfo: str | Path = "/proc/cpuinfo") -> Path:
    """Lets torch and Triton keep compiled code in a folder that lasts, and gives that folder.

    It lies in the first of these that can be written, has file locks and, but for the first, is
    no other user's to write: the folder that TORCHINDUCTOR_CACHE_DIR names, ``hpaloc`` in the
    user's cache (XDG_CACHE_HOME, or ~/.cache), one of the user's among temporary files. Where none
    serves it is a new one, removed at exit. A warning names a folder that does not serve.

    Each version of torch and of Python and each kind of processor has a folder of its own, for
    torch could take code of one processor for another that lacks its instructions. Several
    processes and machines may share it. The variables that torch and Triton read are set, for the
    processes of the compiler too; call this before anything is compiled.
    """
    name = _name(cpuinfo)
    if Path(os.environ.get(FOLDER, "")).name == name:
        return Path(os.environ[FOLDER])  # set here, or by a process that started this one
    candidates = [(base / name, False) for base in _named_by_the_user()]
    own = (_in_the_cache(), _among_temporary_files())
    candidates += [(base / name, True) for base in own if base]
    for folder, private in candidates:
        reason = _why_not(folder, private)
        if not reason:
            break
        log.warning("compiled code is not kept in %s: %s", folder.parent, reason)
    else:
        folder = _temporary() / name
    _remove_torn_libraries(folder)
    _set(folder)
    # The processes in which torch compiles, one for each core with hundreds of MB, end a minute
    # after the last one has worked; in torch 2.9 they stay, if nothing is said.
    from torch._inductor import config  # takes seconds, which only compiling is to cost

    config.quiesce_async_compile_pool = True
    return folder


def compile_twice(
    attempt: Callable[[], None], folder: Path, is_final: Callable[[Exception], bool]
) -> None:
    """Calls ``attempt``, which compiles; where it fails with code from ``folder``, once more
    without that code.

    Damaged code would else keep every later process from compiling. Where the second attempt
    succeeds, a warning says so, and what was in ``folder`` before the first one is removed; what
    other jobs have stored since stays. Raises what the last attempt raises, and
    at once an error that ``is_final`` says has other causes.
    """
    # what_is_missing may have made a library of Triton's.
    had_code = folder.is_dir() and any(found.name != "triton" for found in folder.iterdir())
    before = _time_at(folder)
    try:
        attempt()
        return
    except Exception as error:
        if is_final(error) or not (had_code or _is_of_a_disk(error)):
            raise
        first, is_of_a_disk = _first_line(error), _is_of_a_disk(error)
    # Not in the handler: the exception's frames hold memory of the device.
    _forget_code()
    _set(_temporary() / folder.name)
    attempt()
    if is_of_a_disk:
        log.warning("compiled code cannot be kept in %s (%s)", folder, first)
        return
    log.warning(
        "the code kept in %s did not serve (%s): compiled anew, and that code is removed",
        folder, first,
    )  # fmt: skip
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()


def _time_at(folder: Path) -> float:
    """Now, by the clock of the disk that ``folder`` is on."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0


def what_is_missing(device: str) -> str:
    """What this machine lacks to compile for ``cuda`` or ``cpu``, and how to get it; empty where
    nothing is known to be missing.

    Takes a second at most: for a GPU, Triton compiles a small C file, as it does for every network.
    """
    missing = _missing_for_a_gpu() if device == "cuda" else _missing_for_a_cpu()
    if not missing:
        return ""
    return (
        f"this machine lacks {' and '.join(missing)}. Install gcc, g++ and Python's headers (Debian,"
        " Ubuntu: g++ python3-dev; Red Hat: gcc-c++ python3-devel), load the cluster's modules of"
        " them, or take a conda environment with cxx-compiler of conda-forge"
    )


def count_compiled() -> int:
    """How many graphs this process had to compile so far, for it found no code of them."""
    from torch._dynamo.utils import counters

    found = counters["inductor"]
    return found["fxgraph_cache_miss"] + found["fxgraph_cache_bypass"]


def _name(cpuinfo: str | Path) -> str:
    python = ".".join(map(str, sys.version_info[:2]))
    facts = [platform.machine()]
    try:
        lines = Path(cpuinfo).read_text(encoding="utf-8").splitlines()
        facts += next((line.split() for line in lines if line.startswith(("flags", "Feat"))), [])
    except OSError:  # not Linux
        facts.append(platform.processor())
    processor = hashlib.sha256(" ".join(sorted(facts)).encode()).hexdigest()[:8]
    return f"torch{torch.__version__}-python{python}-{processor}"


def _named_by_the_user() -> list[Path]:
    """The folder in the variable, which importing torch's compiler sets to torch's own default.

    That has a name that anybody knows in the folder of temporary files, which all users share.
    """
    value = os.environ.get(FOLDER)
    if not value:
        return []
    folder = Path(value).absolute()
    is_default = folder.parent == Path(tempfile.gettempdir()) and folder.name.startswith(
        "torchinductor_"
    )
    return [] if is_default else [folder]


def _in_the_cache() -> Path | None:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # A container whose user has no name and no home.
    return None if cache.startswith("~") else Path(cache).absolute() / "hpaloc"


def _among_temporary_files() -> Path:
    return Path(tempfile.gettempdir()).absolute() / f"hpaloc-{os.geteuid()}"


def _why_not(folder: Path, private: bool) -> str:
    """Why compiled code cannot be kept in ``folder``, which is made; empty where it can.

    What is kept there is run, so that of a ``private`` folder the one that holds it must belong to
    this user, and no other one may write there.
    """
    try:
        folder.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
        facts = folder.parent.stat()
        if private and (facts.st_uid != os.geteuid() or facts.st_mode & 0o022):
            return "another user can write there"
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            # torch waits for such locks; not every cluster's file system has them.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _remove_torn_libraries(folder: Path) -> None:
    """Removes compiled libraries that a failing disk left half: loading one ends the process with
    SIGBUS, where anything else that is damaged is an error that can be handled."""
    for library in (*folder.glob("triton/*/*.so"), *folder.glob("*/*.so")):
        with contextlib.suppress(OSError):
            with open(library, "rb") as file:
                header = file.read(64)
            if len(header) < 64 or not header.startswith(b"\x7fELF\x02\x01"):
                continue
            # The table of sections is what a linker writes last.
            (table,) = struct.unpack_from("<Q", header, 40)
            entry_size, entries = struct.unpack_from("<HH", header, 58)
            if library.stat().st_size < table + entry_size * entries:
                log.warning("%s is damaged: removed, it will be compiled anew", library)
                library.unlink()


def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="hpaloc-compiled-")
    process = os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def _set(folder: Path) -> None:
    former = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    # Triton's own default is in the home folder; a folder that the user has set stays.
    if os.environ.get(_TRITON_FOLDER) in (None, f"{former}/triton"):
        os.environ[_TRITON_FOLDER] = f"{folder}/triton"


def _forget_code() -> None:
    """Makes torch look for code on the disk again."""
    torch.compiler.reset()
    if utils := sys.modules.get("torch._inductor.utils"):
        utils.clear_inductor_caches()
    if compiler := sys.modules.get("torch._inductor.async_compile"):
        compiler.shutdown_compile_workers()


def _is_of_a_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of a file: a full disk, a quota, no permission."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _missing_for_a_gpu() -> list[str]:
    if importlib.util.find_spec("triton") is None:
        return ["the Python package triton"]
    import triton
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # noqa: BLE001 - of a compiler, a linker, a library
        wanted = ("gcc", "clang")
        return _missing_tools("CC", wanted, "a C compiler") or [
            f"what Triton needs ({_first_line(error)})"
        ]
    try:
        triton.knobs.nvidia.ptxas  # noqa: B018 - looks for the program
    except RuntimeError as error:
        return [f"NVIDIA's assembler, which comes with triton ({_first_line(error)})"]
    return []


def _missing_for_a_cpu() -> list[str]:
    return _missing_tools("CXX", ("g++", "clang++"), "a C++ compiler")


def _missing_tools(variable: str, programs: tuple[str, ...], what: str) -> list[str]:
    missing = []
    if named := os.environ.get(variable):
        if not shutil.which(named.split()[0]):
            missing.append(f"{what} (there is no {named}, which {variable} names)")
    elif not any(map(shutil.which, programs)):
        missing.append(f"{what} (no {' or '.join(programs)} in PATH; {variable} is not set)")
    include = sysconfig.get_paths()["include"]
    others = [
        os.environ.get(name, "") for name in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")
    ]
    folders = [
        include,
        *(folder for paths in others for folder in paths.split(os.pathsep) if folder),
    ]
    if not any((Path(folder) / "Python.h").is_file() for folder in folders):
        missing.append(f"Python's headers (no {include}/Python.h)")
    return missing

"""Where compiled code is kept, and what a machine lacks to compile."""

import errno
import fcntl
import logging
import os
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hpaloc.compile_cache import FOLDER, compile_twice, use_folder, what_is_missing

TRITON = "TRITON_CACHE_DIR"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch) -> Path:
    """A user with an empty home and an empty folder of temporary files."""
    for name in (FOLDER, TRITON):
        monkeypatch.setenv(name, "")  # restored at the end, whatever is set
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_it_is_in_the_users_cache_which_no_other_user_can_write(machine, caplog) -> None:
    former = os.umask(0o002)
    try:
        folder = use_folder()
    finally:
        os.umask(former)
    assert folder.parent == machine / "home/.cache/hpaloc" and folder.is_dir()
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert os.environ[FOLDER] == str(folder) and os.environ[TRITON] == f"{folder}/triton"
    assert use_folder() == folder and not caplog.records


def test_another_disk_can_be_named(machine, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "scratch"))
    assert use_folder().parent == machine / "scratch/hpaloc"
    monkeypatch.setenv(FOLDER, str(machine / "code"))
    monkeypatch.setenv(TRITON, str(machine / "triton"))
    assert use_folder().parent == machine / "code"
    assert os.environ[TRITON] == str(machine / "triton")


def test_torchs_own_folder_which_any_user_could_make_is_not_taken(machine, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER, str(machine / "temporary/torchinductor_me"))
    assert use_folder().parent == machine / "home/.cache/hpaloc"


def test_processors_have_folders_of_their_own(machine, monkeypatch) -> None:
    names = []
    for number, flags in enumerate(("fpu avx2", "avx2 fpu", "fpu avx2 avx512f")):
        cpuinfo = machine / f"cpuinfo{number}"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: b{number}\n")
        monkeypatch.delenv(FOLDER, raising=False)
        names.append(use_folder(cpuinfo).name)
    assert names[0] == names[1] != names[2]


def _open_to_others(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "hpaloc").mkdir()
    (cache / "hpaloc").chmod(0o777)


def _no_folder(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.touch()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_open_to_others, "another user can write there"), (_no_folder, "Not a directory")],
)
def test_a_cache_that_does_not_serve_is_named_and_another_one_taken(
    machine, caplog, spoil, reason
) -> None:
    cache = machine / "home/.cache"
    spoil(cache)
    folder = use_folder()
    assert folder.parent == machine / f"temporary/hpaloc-{os.geteuid()}"
    assert f"compiled code is not kept in {cache}/hpaloc: {reason}" in caplog.text
    caplog.clear()
    assert use_folder() == folder and not caplog.records


def test_file_systems_without_locks_do_not_serve(machine, monkeypatch, caplog) -> None:
    """Lustre without the mount option flock: torch would not compile at all."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = use_folder()
    assert folder.parent.name.startswith("hpaloc-compiled-")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "Function not implemented" in caplog.text


def test_a_library_that_is_half_written_is_removed_before_it_is_loaded(machine, caplog) -> None:
    """Python would end with SIGBUS."""
    folder = use_folder()
    whole = Path(np._core._multiarray_umath.__file__).read_bytes()
    for name, count in (("whole", len(whole)), ("half", len(whole) // 2), ("empty", 0)):
        (folder / f"triton/{name}").mkdir(parents=True)
        (folder / f"triton/{name}/cuda_utils.so").write_bytes(whole[:count])
    del os.environ[FOLDER]
    use_folder()
    assert {file.parent.name for file in folder.glob("triton/*/*")} == {"whole", "empty"}
    assert "half/cuda_utils.so is damaged" in caplog.text


class _Compiler:
    """Fails so often, with this error."""

    def __init__(self, failures: int, error: Exception):
        self.failures, self.error, self.folders = failures, error, []

    def __call__(self) -> None:
        self.folders.append(os.environ[FOLDER])
        if len(self.folders) <= self.failures:
            raise self.error


def _attempt(compiler: _Compiler, folder: Path) -> None:
    compile_twice(compiler, folder, lambda error: isinstance(error, MemoryError))


def test_code_that_fails_is_compiled_once_more_without_it_and_removed(caplog) -> None:
    folder = use_folder()
    folder.mkdir(parents=True, exist_ok=True)
    damaged, of_another_job = folder / "damaged", folder / "new"
    damaged.touch()
    os.utime(damaged, (1, 1))

    class Beside(_Compiler):
        def __call__(self) -> None:
            of_another_job.touch()
            super().__call__()

    compiler = Beside(1, RuntimeError("Failed to import it\nand more"))
    _attempt(compiler, folder)
    assert compiler.folders[0] == str(folder) != compiler.folders[1] == os.environ[FOLDER]
    assert os.environ[TRITON] == f"{os.environ[FOLDER]}/triton"
    assert "did not serve (Failed to import it)" in caplog.text
    assert not damaged.exists() and of_another_job.exists()


def test_a_full_disk_is_left_for_another_one() -> None:
    folder = use_folder()
    cause = OSError(errno.ENOSPC, "No space left on device")
    error = RuntimeError("inductor")
    error.__cause__ = cause
    compiler = _Compiler(1, error)
    _attempt(compiler, folder)
    assert len(compiler.folders) == 2


@pytest.mark.parametrize(
    ("code", "failures", "error", "attempts"),
    [
        (False, 1, RuntimeError(), 1),  # nothing was kept that could be to blame
        (True, 2, RuntimeError(), 2),
        (True, 1, MemoryError(), 1),
    ],
)
def test_otherwise_its_failure_is_told_and_nothing_is_removed(
    code, failures, error, attempts
) -> None:
    folder = use_folder()
    (folder / "triton").mkdir()  # made when it was looked for what is missing
    if code:
        (folder / "whole").touch()
    compiler = _Compiler(failures, error)
    with pytest.raises(type(error)):
        _attempt(compiler, folder)
    assert len(compiler.folders) == attempts and folder.is_dir()
    assert (folder / "whole").exists() == code


def test_what_is_missing_is_named(machine, monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert what_is_missing("cpu") == ""
    monkeypatch.setenv("PATH", str(machine))
    words = what_is_missing("cpu")
    assert "lacks a C++ compiler (no g++ or clang++ in PATH; CXX is not set). Install" in words
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    assert "CXX is not set) and Python's headers (no /nowhere/Python.h)" in what_is_missing("cpu")
    (machine / "Python.h").touch()
    monkeypatch.setenv("CPATH", str(machine))
    assert "headers (no" not in what_is_missing("cpu")

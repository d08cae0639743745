"""How programs end: in words for what a user can mend, with a traceback for defects only."""

import errno
import sys

import pytest

from hpaloc.log import InputError, run_program


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("t.csv, line 3: no id."), 1, "t.csv, line 3: no id."),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.parquet"),
            1,
            "out.parquet: No space",
        ),
        (OSError(errno.EFBIG, "", "out.csv"), 1, "out.csv: File too large. Make room"),
        (OSError(errno.EROFS, "", "a/out.csv"), 1, "a/out.csv: Read-only file system. Check"),
        (PermissionError(errno.EACCES, "", "in.csv"), 1, "in.csv: Permission denied. Check"),
        (FileNotFoundError(errno.ENOENT, "", "gone"), 1, "gone: No such file or directory. Check"),
        (OSError(errno.EIO, ""), 1, "a file of this job: Input/output error. The disk"),
        (KeyboardInterrupt(), 130, "run again to go on"),
    ],
)
def test_what_a_user_can_mend_ends_in_words(capsys, logging_kept, error, status, said):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run_program(main)
    assert end.value.code == status
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EINVAL, "")])
def test_a_defect_keeps_its_traceback(capsys, logging_kept, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run_program(main)
    assert end.value.code == 70
    told = capsys.readouterr().err
    assert "Traceback" in told and type(error).__name__ in told


def test_home_folders_that_the_shell_left_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = [
        "--labels=~/l.csv",
        "~/my images",
        "--pattern",
        "{id}~",
        "--x=a~/b",
        "~",
        "~backup.csv",
    ]
    monkeypatch.setattr(sys, "argv", ["program", *words])
    seen = []
    run_program(lambda: seen.extend(sys.argv[1:]))
    assert seen == [
        "--labels=/home/me/l.csv", "/home/me/my images", "--pattern", "{id}~", "--x=a~/b", "/home/me",
        "~backup.csv",
    ]  # fmt: skip

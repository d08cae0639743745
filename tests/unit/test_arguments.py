"""Every program meets paths that are wrong, and disks that fail: words, no traceback."""

import argparse
import importlib
import io
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from training_case import recipe

from hpaloc.arguments import (
    Parser,
    input_file,
    input_folder,
    json_value,
    not_negative,
    optional_folder,
    output_file,
    output_folder,
    positive,
)
from hpaloc.digest import SCRIPTS
from hpaloc.files import write_csv, write_json, write_parquet
from hpaloc.log import InputError, run_program

PROGRAMS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
PATHS = (input_file, input_folder, optional_folder, output_file, output_folder)
# Options that are no paths, for programs that look at them before they read a file.
VALUES = {"--recipe": json.dumps(recipe()), "--current": "[]", "--strategies": "[]"}


def whole_files() -> dict[str, bytes]:
    """Files that are whole, but of no use to any program, by their ending."""
    table = io.BytesIO()
    pd.DataFrame({"other": [1]}).to_parquet(table)
    return {
        ".parquet": table.getvalue(),
        ".json": b"{}",
        ".safetensors": struct.pack("<Q", 2) + b"{}",
        ".csv": b"other\n1\n",
    }


WHOLE = whole_files()
GARBAGE = random.Random(1).randbytes(3000)
DAMAGED = {
    "cut": {ending: content[: len(content) // 2] for ending, content in WHOLE.items()},
    "garbage": dict.fromkeys(WHOLE, GARBAGE),
    "empty": dict.fromkeys(WHOLE, b""),
    "of another kind": WHOLE,
}


class _Stop(Exception):
    pass


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    """The parser of every program."""

    def stop(parser: Parser, *_: object) -> None:
        raise _Stop(parser)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", stop)
        for name in PROGRAMS:
            with pytest.raises(_Stop) as stopped:
                importlib.import_module(name).main([])
            (found[name],) = stopped.value.args
    return found


class Call:
    """A program's command line, with a file or folder for every path that it takes.

    ``paths`` has the path of each option; the endings of files are those that its help says.
    """

    def __init__(self, name: str, parser: Parser, folder: Path):
        self.name, self.kinds, self.paths, self.values = name, {}, {}, {}
        (folder / "read").mkdir()
        others = {
            action.dest
            for group in parser._mutually_exclusive_groups
            for action in group._group_actions[1:]
        }
        for action in parser._actions:
            option = action.option_strings[0]
            if action.dest in others:
                continue
            if action.type in PATHS:
                self.kinds[option] = action.type
                self.paths[option] = self._made(action, folder)
            elif action.required:
                value = "{}" if action.type is json_value else "1"
                self.values[option] = VALUES.get(option, (action.choices or [value])[0])

    @staticmethod
    def _made(action: argparse.Action, folder: Path) -> Path:
        name = action.dest
        if action.type in (output_file, output_folder):
            return folder / "made" / name
        path = folder / "read" / name
        if action.type is not input_file:
            path.mkdir()
            return path
        text = f"{action.dest} {action.help}".lower()
        endings = {"json": ".json", "weights": ".safetensors", "csv": ".csv"}
        path = path.with_suffix(
            next((ending for word, ending in endings.items() if word in text), ".parquet")
        )
        path.write_bytes(WHOLE[path.suffix])
        return path

    def of_kind(self, *kinds: Callable) -> list[str]:
        return [option for option, kind in self.kinds.items() if kind in kinds]

    def words(self, **paths: Path) -> list[str]:
        """The command line, with other ``paths`` for some options."""
        given = self.values | {option: str(path) for option, path in (self.paths | paths).items()}
        return [word for pair in given.items() for word in pair]


@pytest.fixture
def call(request, parsers, tmp_path, monkeypatch) -> Call:
    monkeypatch.chdir(tmp_path)
    return Call(request.param, parsers[request.param], tmp_path)


@pytest.fixture
def refused(call, capsys, logging_kept) -> Callable[..., str]:
    """Runs the program as its command line does; gives what it says when it refuses its paths."""

    def run(**paths: Path) -> str:
        main = importlib.import_module(call.name).main
        with pytest.raises(SystemExit) as end:
            run_program(lambda: main(call.words(**paths)))
        told = capsys.readouterr().err
        assert end.value.code == 1, told
        assert "Traceback" not in told
        return told

    return run


each = pytest.mark.parametrize("call", PROGRAMS, indirect=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_paths_are_declared(name, parsers) -> None:
    words = re.compile(r"\((Parquet|CSV|JSON|safetensors|\.npy)\)|\bfolder\b|^out(put)?\b")
    for action in parsers[name]._actions:
        if action.type not in (*PATHS, json_value) and action.option_strings[0] != "--pattern":
            assert not words.search(action.help or ""), f"{action.option_strings}: {action.help}"


@each
def test_what_does_not_exist_is_named(call, refused) -> None:
    for option in call.of_kind(input_file, input_folder):
        path = Path("read/nowhere/x.parquet")
        told = refused(**{option: path})
        assert f"{option} {path}: does not exist: there is no folder read/nowhere" in told
    assert not Path("made").exists()


@each
def test_a_pattern_that_matched_nothing_is_named(call, refused) -> None:
    for option in call.of_kind(input_file):
        path = Path("results/fold*/x.parquet")
        told = refused(**{option: path})
        assert f"{option} {path}: no file matches this pattern: there is no folder results" in told


@each
def test_a_folder_for_a_file_is_named(call, refused) -> None:
    Path("a_folder").mkdir()
    for option in call.of_kind(input_file, output_file):
        told = refused(**{option: Path("a_folder")})
        assert f"{option} a_folder: is a folder; a file is expected" in told
    assert not Path("made").exists()


@each
def test_a_file_for_a_folder_is_named(call, refused) -> None:
    Path("a_file").touch()
    for option in call.of_kind(input_folder, optional_folder, output_folder):
        assert re.search(
            rf"{option} a_file: .*is a file.*a folder is expected", refused(**{option: "a_file"})
        )
    for option in call.of_kind(output_file, output_folder):
        told = refused(**{option: Path("a_file/below/x")})
        assert f"{option} a_file/below/x: cannot be written: a_file is a file" in told


@each
@pytest.mark.parametrize("damage", DAMAGED)
def test_files_that_are_damaged_or_others_are_named(call, refused, damage) -> None:
    inputs = call.of_kind(input_file)
    if not inputs or call.name == "status":  # which reads the project's config.yaml first
        return
    for option in inputs:
        path = call.paths[option]
        path.write_bytes(DAMAGED[damage][path.suffix])
    told = refused()
    assert any(str(call.paths[option]) in told for option in inputs), told
    assert not Path("made").exists()


@each
def test_an_output_in_the_place_of_another_file_is_refused(call, refused) -> None:
    inputs, (first, *others) = call.of_kind(input_file), [*call.of_kind(output_file), None]
    if first is None:
        return
    if inputs:
        path = call.paths[inputs[0]]
        before = path.read_bytes()
        assert f"{first} {path}: is the input {inputs[0]} too" in refused(**{first: path})
        assert path.read_bytes() == before
    if others[:-1]:
        told = refused(**{others[0]: call.paths[first]})
        assert f"{others[0]} {call.paths[first]}: is the output {first} too" in told


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """A real limit: no file grows beyond so many bytes."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@each
def test_a_disk_without_room_is_noticed_before_any_work(call, refused) -> None:
    options = call.of_kind(output_file, output_folder)
    if options:
        with disk_of(0):
            told = refused()
        assert f"{options[0]} {call.paths[options[0]]}: cannot be written in" in told
        assert not Path("made").exists()


# Every program, in one process where disks are read-only and full.
_DRIVER = """
import importlib, io, json, sys, contextlib
from hpaloc.log import run_program
told = []
for name, words in json.load(open(sys.argv[1])):
    main = importlib.import_module(name).main
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            run_program(lambda: main(words))
            code = 0
        except SystemExit as end:
            code = end.code
    told.append((name, code, said.getvalue()))
print(json.dumps(told))
"""


def test_read_only_and_full_disks_are_noticed_before_any_work(parsers, tmp_path) -> None:
    wrong = {"read_only": "Read-only file system", "full": "No space left on device"}
    mount = "mount -t tmpfs -o size=8k tmpfs"
    prepare = (
        f"{mount} read_only && mount -o remount,ro read_only && {mount} full"
        " && ! head -c 99999 /dev/zero 2>/dev/null > full/all"
    )
    for disk in wrong:
        (tmp_path / disk).mkdir()
    tried = ["unshare", "-rm", "bash", "-c", prepare]
    if subprocess.run(tried, check=False, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this user may not mount disks (unshare -rm)")
    calls, expected = [], []
    for name in PROGRAMS:
        (tmp_path / name).mkdir()
        call = Call(name, parsers[name], tmp_path / name)
        options = call.of_kind(output_file, output_folder)
        for disk, fault in wrong.items():
            if options:
                calls.append((name, call.words(**{options[-1]: tmp_path / disk / "new" / "x"})))
                expected.append(f"{options[-1]} {tmp_path / disk / 'new' / 'x'}: cannot be written in"
                                f" {tmp_path / disk} ({fault})")  # fmt: skip
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", f'{prepare}; exec "$0" -c "$1" calls.json',
         sys.executable, _DRIVER],
        check=True, cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert [name for name, _, _ in told] == [name for name, _ in calls]
    for (name, code, said), fault in zip(told, expected, strict=True):
        assert code == 1 and "Traceback" not in said, (name, said)
        assert fault in said


def parsed(*words: str, **types: Callable) -> argparse.Namespace:
    """``words`` as a program takes them whose options have ``types``."""
    parser = Parser()
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind, nargs="+")
    return parser.parse_args(words)


def test_good_paths_pass_and_nothing_is_left_or_changed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ending, content in WHOLE.items():
        Path(f"a{ending}").write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = parsed(
        *("--read", "a.parquet", "a.json", "a.safetensors", "a.csv", "--here", "."),
        *("--made", "old.csv", "new/b.csv", "new/c.csv", "--state", "state/below", "--none", "no"),
        read=input_file, here=input_folder, made=output_file, state=output_folder,
        none=optional_folder,
    )  # fmt: skip
    assert found.read[0] == Path("a.parquet")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_output_that_exists_is_kept_until_it_is_replaced(tmp_path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("old")
    parsed("--made", str(old), made=output_file)
    assert old.read_text() == "old" and list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("there/[0-9]*.csv", input_file, "no file matches this pattern$"),
        ("gone/*/x", input_file, "no file matches this pattern: there is no folder gone"),
        ("there/?.csv", input_file, "a pattern in quotes.*remove the quotes"),
        ("there/b.csv", input_file, "does not exist$"),
        ("there/a.csv/b", input_file, "does not exist: there/a.csv is a file, not a folder"),
        ("link", input_file, "is a link to nowhere, which does not exist"),
        ("round", input_file, "cannot be read"),
        ("x" * 300, input_file, "cannot be read .File name too long"),
        ("x" * 300, output_file, "cannot be written .File name too long"),
        ("x" * 250, output_file, "cannot be written .File name too long"),
        ("x" * 300 + "/y", output_file, "cannot be written.*File name too long"),
        ("/dev/null", output_file, "not a file but a device"),
        ("/proc/x/y", output_file, "cannot be written in /proc"),
        ("gone", input_folder, "does not exist$"),
    ],
)
def test_a_path_that_is_wrong_is_explained(tmp_path, monkeypatch, path, kind, said) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/a.csv").touch()
    Path("link").symlink_to("nowhere")
    Path("round").symlink_to("round")
    with pytest.raises(InputError, match=rf"(?s)^--path {re.escape(path)}: .*{said}"):
        parsed("--path", path, path=kind)


@contextmanager
def another_user() -> Iterator[None]:
    """Root is stopped by no permission, and becomes another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_a_user_may_not_do_is_explained() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        secret, made = folder / "secret.csv", folder / "x"
        secret.touch(mode=0)
        folder.chmod(0o555)
        with another_user(), pytest.raises(InputError) as raised:
            parsed("--read", str(secret), "--made", str(made), read=input_file, made=output_file)
        folder.chmod(0o755)
    assert f"--read {secret}: cannot be read (Permission denied)" in str(raised.value)
    assert f"--made {made}: cannot be written in {folder} (Permission" in str(raised.value)


def test_all_faults_are_told_at_once_but_not_a_thousand(tmp_path) -> None:
    words = ["--made", str(tmp_path), "--read", *(f"/nowhere/{number}" for number in range(1000))]
    with pytest.raises(InputError) as raised:
        parsed(*words, made=output_file, read=input_file)
    lines = str(raised.value).splitlines()
    assert len(lines) <= 8
    assert any(line.strip().startswith("--made") for line in lines)
    assert "997 more" in lines[-1] or "996 more" in lines[-1]


def test_json_that_is_not_is_told(capsys) -> None:
    parser = Parser()
    parser.add_json("--recipe")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--recipe", "{'a': 1}"])
    assert end.value.code == 2
    assert "--recipe: \"{'a': 1}\" is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", ""])
def test_a_number_of_threads_that_is_none_is_told(text, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--threads", text, threads=positive)
    assert end.value.code == 2
    assert f"{text!r} is not a whole number from 1" in capsys.readouterr().err
    assert parsed("--threads", "12", threads=positive).threads == [12]


@pytest.mark.parametrize("text", ["-3", "1.5", "all", "", "1" * 5000])
def test_a_number_of_gpus_that_is_none_is_told(text, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--gpus", text, gpus=not_negative)
    assert end.value.code == 2
    assert f"{text!r} is not a whole number from 0" in capsys.readouterr().err
    assert parsed("--gpus", "0", gpus=not_negative).gpus == [0]


def test_no_program_takes_a_negative_count_or_place(parsers) -> None:
    counts = {"--gpus", "--workers", "--threads", "--shard", "--shards", "--part"}
    found = {
        (name, option): action.type
        for name, parser in parsers.items()
        for action in parser._actions
        for option in counts.intersection(action.option_strings)
    }
    assert ("label_images", "--gpus") in found
    assert {key for key, type_ in found.items() if type_ not in (positive, not_negative)} == set()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_csv(pd.DataFrame({"a": range(20_000)}), path),
        lambda path: write_parquet(pd.DataFrame({"a": [os.urandom(20_000)]}), path),
        lambda path: write_json(["x" * 20_000], path),
    ],
)
def test_a_disk_that_becomes_full_at_work_ends_in_words(
    write, tmp_path, capsys, logging_kept
) -> None:
    path = tmp_path / "made.out"
    path.write_text("old")

    def main() -> None:
        parsed("--made", str(path), made=output_file)
        write(path)

    with disk_of(10_000), pytest.raises(SystemExit) as end:
        run_program(main)
    told = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" not in told
    assert f"{path}: File too large. Make room" in told
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

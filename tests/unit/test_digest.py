"""The code digest: edits count, all else does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpaloc.digest import SCRIPTS, code_digest, program_files

PROGRAM = '''"""Docstring."""
from hpaloc.tool import work
from hpaloc import arguments, log
from hpaloc.provenance import NOTED


def main():
    """Does it."""
    return work(1)  # a comment
'''


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "hpaloc").mkdir()
    (tmp_path / "hpaloc" / "__init__.py").write_text("")
    (tmp_path / "hpaloc" / "log.py").write_text("LEVEL = 1\n")
    (tmp_path / "hpaloc" / "arguments.py").write_text("CHECKS = 1\n")
    (tmp_path / "hpaloc" / "provenance.py").write_text("NOTED = 1\n")
    (tmp_path / "hpaloc" / "deep.py").write_text("FACTOR = 2\n")
    (tmp_path / "hpaloc" / "other.py").write_text("UNUSED = 2\n")
    (tmp_path / "hpaloc" / "tool.py").write_text(
        "import hpaloc.deep\n\n\ndef work(x):\n    return x * hpaloc.deep.FACTOR\n"
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("program.py", "work(1)", "work(2)", True),
        ("hpaloc/tool.py", "x *", "x +", True),
        ("hpaloc/deep.py", "2", "3", True),
        ("hpaloc/deep.py", "2", "2.0", True),
        ("program.py", "# a comment", "# another", False),
        ("program.py", "Does it.", "Does it well.", False),
        ("program.py", "work(1)", "work(\n        1,\n    )", False),
        ("hpaloc/other.py", "2", "3", False),
        ("hpaloc/log.py", "1", "2", False),
        ("hpaloc/arguments.py", "1", "2", False),
        ("hpaloc/provenance.py", "1", "2", False),
    ],
)
def test_only_edits_of_code_that_is_used_count(scripts, file, old, new, counts):
    before = code_digest("program", scripts)
    path = scripts / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert (code_digest("program", scripts) != before) == counts


def test_a_statement_that_moves_into_a_branch_counts(scripts):
    path = scripts / "hpaloc" / "deep.py"
    path.write_text("if 1:\n    A = 1\nB = 2\n")
    before = code_digest("program", scripts)
    path.write_text("if 1:\n    A = 1\n    B = 2\n")
    assert code_digest("program", scripts) != before


def test_every_program_is_followed_to_its_modules():
    for script in SCRIPTS.glob("*.py"):
        names = {path.name for path in program_files(script.stem)}
        assert script.name in names
        assert len(names) > 1, f"{script.name} imports nothing of hpaloc"


def test_other_versions_of_python_make_the_same_digest():
    # Those on PATH, and those beside this one where several are installed.
    others = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]
    others += [str(path) for path in Path(sys.base_prefix).parent.glob("3.1[1-9]*/bin/python")]
    command = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r});"
        "from hpaloc.digest import code_digest; print(code_digest('make_folds'))"
    )
    found = []
    for other in others:
        try:
            run = subprocess.run(
                [other, "-c", command], check=False, capture_output=True, text=True
            )
        except FileNotFoundError:
            continue
        if run.returncode == 0:
            found.append(run.stdout.strip())
    if not found:
        pytest.skip("no other Python from 3.11 on is here")
    assert set(found) == {code_digest("make_folds")}

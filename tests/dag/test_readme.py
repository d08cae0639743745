"""What the README takes from the project is current."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_the_table_of_keys_and_the_rule_graph_are_current():
    command = [sys.executable, "docs/update_readme.py", "--check"]
    done = subprocess.run(command, check=False, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

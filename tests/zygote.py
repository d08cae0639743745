"""Programs that are killed again and again, in processes forked from one that has their modules.

A test that kills a program twenty times cannot wait twenty times for its imports, and must not
fork itself: its servers have threads. (The fork server of multiprocessing is one for all tests, and
preloads nothing from a path of pytest's.)
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any, Self

_CODE = """
import importlib, json, os, sys
drive = importlib.import_module(sys.argv[1]).drive
for also in sys.argv[2:]:
    importlib.import_module(also)
print("ready", flush=True)
for line in sys.stdin:
    process = os.fork()
    if process == 0:
        os.dup2(2, 1)
        try:
            drive(*json.loads(line))
        finally:
            os._exit(1)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""


class Zygote:
    """Runs ``drive(*arguments)`` of a module, one process at a time, while the ``with`` block runs."""

    def __init__(self, module: str, *also: str):
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, module, *also],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: Any) -> None:
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        self.child = int(self._process.stdout.readline())

    def is_running(self) -> bool:
        try:
            os.kill(self.child, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> int:
        """The status of what was started, or minus the signal that ended it, when it has ended."""
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def kill(self) -> None:
        """SIGKILL to what was started, and waits for its end."""
        if self.is_running():
            os.kill(self.child, signal.SIGKILL)
        self._process.stdout.readline()

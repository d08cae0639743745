"""Runs a program of the workflow or of the benchmarks in a process of the zygote."""

import importlib
import os
import signal
import sys
import traceback

from workspace import PROJECT

from hpaloc.log import run_program

sys.path.insert(0, str(PROJECT / "benchmarks"))


def drive(program: str, argv: list[str], log: str) -> None:
    """Ends the process with the program's status; 1 for an error that nothing catches."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module = importlib.import_module(program)
    in_workflow = str(PROJECT / "workflow") in module.__file__
    try:
        if in_workflow:
            run_program(lambda: module.main(argv))
        else:
            module.main(argv)
    except SystemExit as error:
        os._exit(error.code)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

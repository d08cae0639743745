"""Runs a command and notes in a JSON file what it used: seconds, and memory at most.

In a process of its own, which imports next to nothing: Linux counts the memory of the process that
starts a program as the program's.

    python benchmarks/measured.py USED.json COMMAND …
"""

import json
import os
import subprocess
import sys
import time

if __name__ == "__main__":
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[2:])
    _, status, usage = os.wait4(process.pid, 0)
    used = {
        "wall": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024 / 1e6,
    }
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(used, file)
    sys.exit(os.waitstatus_to_exitcode(status))

"""Fetching many small files: how busy the client keeps the connections that it may open.

A server in a process of its own, on this machine, waits 50 ms before each answer, as a distant
one does, and measures the connections with a request in service, from the first request to the
last answer. The files are JPG images of noise, coded as the atlas does, about 100 KB each; they
are stored, checked (decoded), summed and synced as in the workflow. The rate per host is set too
high to matter: what is measured is the client, at its limit of connections.

    python benchmarks/fetch.py --out benchmarks/fetch.md
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import simplejpeg
from machine import cpu_model

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "workflow" / "scripts"), str(PROJECT / "tests")]

from atlas_server import AtlasServer

from hpaloc.files import write_text
from hpaloc.hpa.images import check_jpeg
from hpaloc.web.client import fetch_all
from hpaloc.web.files import Wanted

SIDE = 1728  # pixels, as most of the atlas's files


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="table to write (Markdown)")
    parser.add_argument("--files", type=int, default=3000, help="files per measurement")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument("--connections", type=int, nargs="+", default=[8, 16], help="limits")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each")
    arguments = parser.parse_args(argv)

    picture = noise_image()
    rows = []
    for connections in arguments.connections:
        runs = [measure(picture, connections, arguments) for _ in range(arguments.repeats)]
        rows.append([connections, *map(statistics.median, zip(*runs, strict=True))])
    command = shlex.join(["python", "benchmarks/fetch.py", *(argv or sys.argv[1:])])
    text = report(rows, len(picture), arguments, command)
    print(text)
    if arguments.out:
        write_text(text, arguments.out)


def noise_image() -> bytes:
    """A colour-coded green channel, of about 100 KB: blocks of noise in one plane, 4:2:0."""
    blocks = np.random.default_rng(1).integers(0, 64, (SIDE // 8, SIDE // 8), np.uint8)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[..., 1] = np.kron(blocks, np.ones((8, 8), np.uint8))
    return simplejpeg.encode_jpeg(picture, quality=50, colorsubsampling="420")


def measure(picture: bytes, connections: int, arguments: argparse.Namespace) -> tuple[float, ...]:
    """Mean connections in service / limit, files/s, MB/s, and the client's CPU as a share of one."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, picture, arguments.latency)
    )
    server.start()
    address = ours.recv()
    network = {
        "connections": connections, "requests_per_second": 100_000, "attempts": 3,
        "timeout_s": 60, "contact": "", "private_addresses": True,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        wanted = [
            Wanted(f"{k}", (f"{address}/{k}",), Path(folder, f"{k % 50}", f"{k}.jpg"))
            for k in range(arguments.files)
        ]
        start, cpu = time.perf_counter(), cpu_seconds()
        results = fetch_all(wanted, check_jpeg, network, "files", 1 << 24)
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    if any(result.reason for result in results):
        raise SystemExit(next(result.reason for result in results if result.reason))
    ours.send("end")
    busy = ours.recv()
    server.join()
    megabytes = arguments.files * len(picture) / 1e6
    return busy / connections, arguments.files / seconds, megabytes / seconds, cpu / seconds


def serve(pipe, picture: bytes, latency_s: float) -> None:
    with AtlasServer(lambda path: picture, latency_s) as server:
        pipe.send(server.url())
        pipe.recv()
        pipe.send(server.mean_busy())


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(rows: list[list[float]], size: int, arguments: argparse.Namespace, command: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "simplejpeg"))
    lines = "\n".join(
        f"| {limit} | {busy * limit:.1f} | {100 * busy:.1f} % | {rate:.0f} | {speed:.1f} |"
        f" {100 * cpu:.0f} % |"
        for limit, busy, rate, speed, cpu in rows
    )
    return f"""# Fetching of image files

{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores of {cpu_model()}, Python {platform.python_version()},
{versions}; load average {os.getloadavg()[2]:.1f} (1 to 2 is this program and its server).
{arguments.files} files of {size / 1000:.0f} KB ({SIDE} px) each, {1000 * arguments.latency:.0f} ms before each answer, medians of {arguments.repeats}
runs. Connections in service are measured by the server; files are checked, summed and synced. CPU
is the client's, of one core.

    {command}

| connection limit | mean in service | of the limit | files/s | MB/s | CPU |
| --- | --- | --- | --- | --- | --- |
{lines}
"""


if __name__ == "__main__":
    main()

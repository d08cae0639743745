"""What it costs to notice that a user's images have changed: plans over folders of many files.

A plan is a dry run of Snakemake in a copy of this project, for a local source whose index is there.
Each is made with nothing touched, right after one whose files all have new time stamps, so that
they are read and compared. The baseline is a source of four files. The files are small ones: what
is measured is the directory and the table of the source, and reading adds the disk's own time.

    python benchmarks/changed_files.py --out benchmarks/changed_files.md
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from machine import cpu_model
from scale import PARTS, PROJECT

sys.path.insert(0, str(PROJECT / "workflow" / "scripts"))

from hpaloc.classes import CHANNELS
from hpaloc.contents import Contents, sum_of_file, token_of, write_contents
from hpaloc.listing import image_states

FOLDER = "images"
PER_FOLDER = 1_000  # images of a plate
BYTES = 1_000
LIMIT = 1 / 25_000  # seconds a file, nothing touched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, nargs="+", default=[4, 25_000, 100_000])
    parser.add_argument("--times", type=int, default=3, help="plans of each, the median counts")
    parser.add_argument("--disk", help="folder for the images, such as one on a network disk")
    parser.add_argument("--out", help="the table (Markdown)")
    arguments = parser.parse_args()

    rows = []
    for files in arguments.files:
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory(dir=arguments.disk) as images,
        ):
            (Path(folder) / FOLDER).symlink_to(images)
            rows.append((files, *measured(Path(folder), files, arguments.times)))
            print(rows[-1], flush=True)
    text = table(rows, arguments.times, arguments.disk)
    print(text)
    if arguments.out:
        Path(arguments.out).write_text(text, encoding="utf-8")


def measured(folder: Path, files: int, times: int) -> tuple[float, float]:
    """Median seconds of a plan with nothing touched, and with new time stamps everywhere."""
    for part in PARTS:
        (folder / part).symlink_to(PROJECT / part)
    source = {"kind": "local", "folder": FOLDER, "pattern": "{id}_{channel}", "images": 1_000}
    overlay = {"test_source": "mine", "sources": {"mine": source}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    for number in range(files // 4):
        plate = folder / FOLDER / f"plate{number // PER_FOLDER:03d}"
        plate.mkdir(parents=True, exist_ok=True)
        for channel in CHANNELS:
            (plate / f"well{number:06d}_{channel}.tif").write_bytes(os.urandom(BYTES))
    root = folder / FOLDER
    states = image_states(root)
    listed = {name: (state, sum_of_file(f"{root}/{name}")) for name, state in states.items()}
    raw = folder / "results/sources/mine/raw"
    write_contents(raw / "contents.json", Contents(token_of(states), FOLDER, listed))
    untouched, touched = [], []
    plan(folder)
    for turn in range(times):
        untouched.append(plan(folder))
        for path in root.rglob("*.tif"):
            os.utime(path, (turn, turn))
        touched.append(plan(folder))
    return statistics.median(untouched), statistics.median(touched)


def plan(folder: Path) -> float:
    snakemake = Path(sys.executable).parent / "snakemake"
    target = "results/sources/mine/raw/index.sha256"
    command = [str(snakemake), "-n", target, "--configfile", "config/demo.yaml", "mine.yaml"]
    start = time.perf_counter()
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def table(rows: list[tuple[int, float, float]], times: int, disk: str | None) -> str:
    (_, base, _), *_ = rows
    where = f"images on {disk}" if disk else "local disk"
    machine = f"{cpu_model()}, {os.cpu_count()} cores, {where}, {datetime.date.today()}"
    columns = ("files", "plan, nothing touched, s", "more than the first row, s", "limit, s")
    columns += ("plan, all touched, s",)
    lines = [
        "# Noticing changed files",
        "",
        "Made by `benchmarks/changed_files.py`:",
        *__doc__.split("\n\n")[1].splitlines(),
        "",
        f"{machine}; medians of {times} plans.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' ---: |' * len(columns)}",
    ]
    for files, untouched, touched in rows:
        more = untouched - base
        lines.append(
            f"| {files:,} | {untouched:.2f} | {more:.2f} | {files * LIMIT:.2f} | {touched:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

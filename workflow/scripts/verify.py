"""Compares every result with the record of its origin; names what is not as it was made, and the repair.

Status 1 where a file was deleted, truncated or edited, or made of something that has changed since.
Arrays and raw images that were deleted are named, but free to be: nothing that is made needs them.
"""

import logging
import os
import shlex
import sys
from pathlib import Path

from hpaloc.arguments import Parser, positive
from hpaloc.log import InputError, run_program, some_of
from hpaloc.provenance import CONFIGS, SCRATCH, SUFFIX
from hpaloc.verification import Fault, Findings, Job, freely_deleted, repairs, verify

log = logging.getLogger("hpaloc")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_optional_folder("--results", default=Path("results"), help="folder of results")
    parser.add_argument(
        "--run", help="only this run and what it was made of; `config` is the unnamed"
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, help="files at a time"
    )
    args = parser.parse_args(argv)

    if not args.results.is_dir():
        raise InputError(
            f"there is no folder {args.results}: nothing was made here yet, or this is not the"
            " folder where Snakemake ran."
        )
    found = verify(args.results, args.run, args.threads)
    if not found.jobs and not found.damaged:
        raise InputError(
            f"{args.results}: no records of origin"
            f"{f' of a run {args.run!r}' if args.run else ''}. They are written with the results;"
            " what an older version made has none."
        )
    for job, fault in all_faults(found):
        if not fault.is_free:
            print(f"{fault.path}: {in_words(fault, job)}")
    for path in found.gone:
        print(f"{path}: deleted, with the record of its making")
    for fault in found.damaged:
        print(f"{fault.path}: {fault.what}")
    for (job, why), paths in stale_by_job(found).items():
        print(f"{job.target}: made of {some_of(paths)}, which was {why}")
    for job, path in found.spoilt:
        print(
            f"{path}: not as it was fetched. Delete it and {Path(job.target).parents[1]}, and run"
            " Snakemake again: it is fetched once more"
        )
    free = freely_deleted(found)
    for job, faults in free.items():
        print(
            f"{some(faults)}: deleted, which is free. To have it again: {command(job, [job.target])}"
        )
    if found.without:
        names = [str(path) for path in found.without]
        print("\nWithout a record, made by hand or by an older version, and not compared:")
        print("\n".join(names))
    steps = repair_steps(found)
    if steps:
        print("\nTo repair:")
        print("\n".join(steps))
    if (
        found.damaged
        or found.stale
        or found.gone
        or found.spoilt
        or any(not f.is_free for _, f in all_faults(found))
    ):
        sys.exit(1)
    there = found.files - sum(len(faults) for faults in free.values())
    log.info("%d files of %d jobs are as they were made", there, len(found.jobs))


def all_faults(found: Findings) -> list[tuple[Job, Fault]]:
    return [(job, fault) for job, faults in found.faults.items() for fault in faults]


def stale_by_job(found: Findings) -> dict[tuple[Job, str], list[str]]:
    """The files that a job was made of and that have changed since, by job and reason."""
    paths: dict[tuple[Job, str], list[str]] = {}
    for job, path, why in found.stale:
        paths.setdefault((job, why), []).append(path)
    return paths


def in_words(fault: Fault, job: Job) -> str:
    if not fault.path.is_file():
        return fault.what
    recorded = job.about["outputs"].get(fault.path.as_posix(), {}).get("bytes")
    size = fault.path.stat().st_size
    return fault.what if recorded in (None, size) else f"{fault.what}, {size} of {recorded} bytes"


def some(faults: list[Fault]) -> str:
    """``shard_000.npy``, or where there are more ``40 files of results/…/raw/train``."""
    folders = sorted({str(fault.path.parent) for fault in faults})
    return str(faults[0].path) if len(faults) == 1 else f"{len(faults)} files of {some_of(folders)}"


def repair_steps(found: Findings) -> list[str]:
    """The commands that repair all, one a line."""
    steps = []
    for fault in found.damaged:
        waiting = SCRATCH / fault.path.name
        if fault.path.parent != CONFIGS:
            continue
        if waiting.is_file():
            steps.append(shlex.join(["cp", str(waiting), str(fault.path)]))
        else:
            steps.append(f"# {fault.path}: run Snakemake with that configuration and -n, then cp")
    steps += [command(job, targets) for job, targets in repairs(found)]
    for fault in found.damaged:
        target = output_beside(fault.path) if fault.path.name.endswith(SUFFIX) else None
        if target and found.jobs:
            nearest = max(found.jobs, key=lambda job: common_length(job.target, target))
            steps.append(command(nearest, [target]))
    # What is made again above may have made some of these: they are asked for, not forced.
    gone: dict[str, tuple[Job, list[str]]] = {}
    for path, reader in found.gone.items():
        gone.setdefault(reader.about["config"]["path"], (reader, []))[1].append(path)
    steps += [command(reader, sorted(paths), force=False) for reader, paths in gone.values()]
    return steps


def command(job: Job, targets: list[str], force: bool = True) -> str:
    """Makes ``targets`` again, with the configuration that ``job`` was made with."""
    beside = Path(sys.executable).parent / "snakemake"
    snakemake = os.path.relpath(beside) if beside.is_file() else "snakemake"
    project = job.about["project"]
    elsewhere = []
    if project != ".":  # it is a module of the workflow that lies here
        elsewhere = ["--snakefile", f"{project}/Snakefile", "--cores", "all"]
        elsewhere.append("--replace-workflow-config")
    config = ["--configfile", job.about["config"]["path"]]
    wanted = ["--force", *targets] if force else ["--", *targets]
    return shlex.join([snakemake, *elsewhere, *config, *wanted])


def output_beside(record: Path) -> str | None:
    """A file that a damaged record is of."""
    stem = record.name.removesuffix(SUFFIX)
    beside = sorted(path for path in record.parent.glob(f"{stem}.*") if path != record)
    return beside[0].as_posix() if beside else None


def common_length(one: str, other: str) -> int:
    return len(os.path.commonpath([one, other]))


if __name__ == "__main__":
    run_program(main)

"""Tabulates the records of origin of all that some results were made of, for the report."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from hpaloc.arguments import Parser
from hpaloc.files import write_csv, write_text
from hpaloc.log import InputError, run_program
from hpaloc.provenance import record
from hpaloc.verification import Job, read_records, with_sources

# Jobs that agree in all of these are one row.
SHARED = ["program", "commit", "config", "seed", "device", "python", "packages", "earlier"]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_input_folder("--results", help="folder of all results")
    parser.add_input("--made", nargs="+", help="the results in question")
    parser.add_output("--table", help="output: a row per kind of job (CSV)")
    parser.add_output("--config", help="output: configuration of the last result")
    args = parser.parse_args(argv)

    jobs, _ = read_records(args.results)
    made = [path.as_posix() for path in args.made]
    last = {job for job in jobs if set(made) & job.about["outputs"].keys()}
    if not last:
        raise InputError(
            f"{args.made[0]} and the other results have no records of their origin: an older version"
            f" made them. Delete them and run again."
        )
    rows = pd.DataFrame([row(job) for job in with_sources(jobs, last)])
    table = rows.groupby(SHARED, dropna=False, sort=True, as_index=False).agg(
        jobs=("record", "size"), inputs=("inputs", digest), outputs=("outputs", digest),
        record=("record", "min"),
    )  # fmt: skip
    write_csv(table, args.table)
    write_text(config_of(max(last, key=lambda job: newest(job, made))), args.config)
    record(args, [args.table, args.config])


def newest(job: Job, made: list[str]) -> int:
    """Where the last of the job's files stands in ``made``, which has later stages last."""
    return max(made.index(path) for path in job.about["outputs"] if path in made)


def config_of(job: Job) -> str:
    path = Path(job.about["config"]["path"])
    if not path.is_file():
        raise InputError(
            f"{path}: the configuration that {job.target} was made with is not there any more."
            " make verify prints how to have it again."
        )
    return path.read_text(encoding="utf-8")


def row(job: Job) -> dict[str, object]:
    about = job.about
    earlier = map(maker_columns, about.get("earlier_makers", []))  # older records have no such key
    return {
        "program": about["program"],
        "config": about["config"]["path"],
        "seed": "" if about["seed"] is None else str(about["seed"]),
        **maker_columns(about),
        "earlier": "; ".join(
            f"{one['device']}, commit {one['commit']}, python {one['python']}, {one['packages']}"
            for one in earlier
        ),
        "inputs": sums(about["inputs"]),
        "outputs": sums(about["outputs"]),
        "record": job.path.as_posix(),
    }


def maker_columns(maker: dict[str, Any]) -> dict[str, str]:
    """The columns of who made something: commit, device, python, packages."""
    packages = dict(maker["versions"])
    python = packages.pop("python", "unknown")
    return {
        "commit": maker["commit"] or "unknown",
        "device": maker["device"]["gpu"] or maker["device"]["cpu"] or "unknown",
        "python": python,
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
    }


def sums(files: dict[str, dict]) -> str:
    """Lines of ``sha256  path``, as sha256sum writes them."""
    return "".join(f"{facts['sha256']}  {path}\n" for path, facts in sorted(files.items()))


def digest(lines: pd.Series) -> str:
    """sha256 over the sums of the files of several jobs."""
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


if __name__ == "__main__":
    run_program(main)

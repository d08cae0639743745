"""Compares results with the records of their origin, and says how the least of them is made again."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from hpaloc.classes import CHANNELS
from hpaloc.contents import FILE_NAME, UNREADABLE, read_contents, sum_of_file
from hpaloc.files import sha256_of_file
from hpaloc.log import Progress
from hpaloc.provenance import (
    NO_RESULTS,
    OF_ALL_RUNS,
    SUFFIX,
    sum_of_record,
    sum_of_shard,
    text_of_record,
)

DELETED, TRUNCATED, EDITED = "deleted", "truncated", "edited"
EDITED_SINCE = "edited since"

# What the unnamed run is called in records.
UNNAMED = "config"

# The sum of a file: None where it is not the file that it was, by its size or form; an OSError
# where it cannot be read.
Sum = str | None | OSError


class Fault(NamedTuple):
    """What is wrong with a file; ``is_free``: it may be deleted, what it was for is made."""

    path: Path
    what: str
    is_free: bool = False


@dataclass(eq=False)
class Job:
    """A record: what a job read and made. ``path`` is the record's own, the first of its copies."""

    path: Path
    about: dict[str, Any]
    copies: list[Path] = field(default_factory=list)

    @property
    def target(self) -> str:
        """The output that stands for the job."""
        stem = self.path.name.removesuffix(SUFFIX)
        of_stem = [path for path in self.about["outputs"] if Path(path).stem == stem]
        return next((path for path in of_stem if Path(path).parent == self.path.parent), of_stem[0])


class Findings(NamedTuple):
    """``faults`` by job, ``stale`` (job, input, why), ``gone`` inputs, deleted with the record of
    their making, by a job that read them, ``damaged`` records, files ``without`` a record, and
    fetched images that are not as they were fetched (``spoilt``: job, image)."""

    faults: dict[Job, list[Fault]]
    stale: list[tuple[Job, str, str]]
    gone: dict[str, Job]
    damaged: list[Fault]
    without: list[Path]
    spoilt: list[tuple[Job, str]]
    jobs: list[Job]
    files: int


def verify(results: Path, run: str | None, threads: int) -> Findings:
    """Compares all results below ``results`` with their records; those of ``run`` and what they
    were made of, where it is named.

    Paths are those of the records, which start where Snakemake ran.
    """
    jobs, damaged = read_records(results)
    without = list(_without_record(results, jobs))
    if run is not None:
        others = {job.about["run"] for job in jobs} - {run}
        jobs = with_sources(jobs, {job for job in jobs if job.about["run"] == run})
        read_from = {Path(path).parent for job in jobs for path in job.about["inputs"]}

        def is_of_run(path: Path) -> bool:
            first = path.relative_to(results).parts[0]
            return first == run or (run == UNNAMED and first not in others | OF_ALL_RUNS)

        damaged = [f for f in damaged if is_of_run(f.path) or f.path.parent in read_from]
        without = [path for path in without if is_of_run(path) or path.parent in read_from]
    made = {path: facts for job in jobs for path, facts in job.about["outputs"].items()}
    images = {job: dict(_images_of(job)) for job in jobs}
    for listed in images.values():
        made |= listed
    read = {path for job in jobs for path in job.about["inputs"]}
    sums = _sums({**dict.fromkeys(read), **made}, threads)
    faults: dict[Job, list[Fault]] = {}
    for job in jobs:
        found = [
            Fault(Path(path), what, what == DELETED and (path in images[job] or _is_shard(path)))
            for path, facts in {**job.about["outputs"], **images[job]}.items()
            if (what := _compared(path, facts, sums))
        ]
        if found:
            faults[job] = found
    stale = [
        (job, path, why)
        for job in jobs
        for path, facts in job.about["inputs"].items()
        if (why := _stale(path, facts, made, sums))
    ]
    raw = {job: dict(_raw_files_of(job)) for job in jobs}
    of_raw = _sums_of_raw(
        {path: sum_ for listed in raw.values() for path, sum_ in listed.items()}, threads
    )
    stale += [
        (job, path, why)
        for job, path, why in _edited(raw, of_raw)
        if not _is_fetched(path, results)
    ]
    spoilt = [(job, path) for job, path, _ in _edited(raw, of_raw) if _is_fetched(path, results)]
    gone = {
        path: job
        for job in jobs
        for path in job.about["inputs"]
        if path not in made and path not in sums and _is_result(Path(path), results)
    }
    configs = {job.about["config"]["path"]: job.about["config"] for job in jobs}
    sums_of_configs = {path: _sum(path) for path in configs if os.path.isfile(path)}
    for path, facts in configs.items():
        if what := _compared(path, facts, sums_of_configs):
            damaged.append(Fault(Path(path), what))
    files = len({*made, *configs, *of_raw})
    return Findings(faults, stale, gone, damaged, without, spoilt, jobs, files)


def read_records(results: Path) -> tuple[list[Job], list[Fault]]:
    """The jobs whose records lie below ``results``, and the records that are none any more.

    Of a job with a damaged record, the copy beside its other files is taken, if it has one.
    """
    jobs: dict[str, Job] = {}
    damaged = []
    for path in _files_below(results):
        if not path.name.endswith(SUFFIX):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            about = json.loads(text)
            whole = about["sha256"] == sum_of_record(about) and text == text_of_record(about)
        except OSError as error:
            damaged.append(Fault(path, _unreadable(error)))
            continue
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            damaged.append(Fault(path, EDITED))
            continue
        job = jobs.setdefault(about["sha256"], Job(path, about))
        job.copies.append(path)
    return list(jobs.values()), damaged


def repairs(findings: Findings) -> list[tuple[Job, list[str]]]:
    """The runs of Snakemake that repair all, in their order: (a job of the same configuration, targets).

    A job that another one's damaged files were made into comes after it, in a run of its own:
    within a run, Snakemake repeats all that is below a job, also where its bytes are the same.
    """
    broken = {job for job, faults in findings.faults.items() if not all(f.is_free for f in faults)}
    broken |= {job for job, _, _ in findings.stale}
    above = _above(findings.jobs)
    # What is measured, or made of an edited file, comes out otherwise: what was made of it follows.
    differs = {job for job in broken if not job.about["repeatable"]}
    differs |= {job for job, _, why in findings.stale if why == EDITED_SINCE}
    broken |= {job for job in findings.jobs if above[job] & differs}
    in_order = sorted(broken, key=lambda job: len(above[job]))
    like = _configured_like(findings, in_order, above)
    level: dict[Job, int] = {}
    for job in in_order:
        level[job] = max((level[other] + 1 for other in above[job] & level.keys()), default=0)
    steps: dict[tuple[int, str], list[Job]] = {}
    for job, number in level.items():
        steps.setdefault((number, like[job].about["config"]["path"]), []).append(job)
    return [
        (like[steps[key][0]], sorted({job.target for job in steps[key]})) for key in sorted(steps)
    ]


def _configured_like(
    findings: Findings, in_order: Sequence[Job], above: Mapping[Job, set[Job]]
) -> dict[Job, Job]:
    """For each broken job the one whose configuration repairs it, as a rule its own.

    What was made of a file that was made again since, by the same run with another configuration,
    is older than that configuration: with its own, Snakemake would make that file as it was once,
    and train the folds again. The same holds for what is below it.
    """
    maker = {path: job for job in findings.jobs for path in job.about["outputs"]}
    since: dict[Job, list[Job]] = {}
    for job, path, _ in findings.stale:
        if path in maker and maker[path].about["run"] == job.about["run"]:
            since.setdefault(job, []).append(maker[path])
    like: dict[Job, Job] = {}
    for job in in_order:
        newer = [like.get(other, other) for other in since.get(job, [])]
        newer += [like[other] for other in above[job] & like.keys() if like[other] is not other]
        own = job.about["config"]["path"]
        others = [o for o in newer if o.about["config"]["path"] != own]
        of_run = [o for o in others if o.about["run"] == job.about["run"]]
        like[job] = max(of_run, key=lambda o: len(above[o]), default=job)
    return like


def freely_deleted(findings: Findings) -> dict[Job, list[Fault]]:
    """Arrays and raw images that are gone, by the job that would make them again."""
    free = {job: [f for f in faults if f.is_free] for job, faults in findings.faults.items()}
    return {job: faults for job, faults in free.items() if faults}


def with_sources(jobs: list[Job], wanted: set[Job]) -> list[Job]:
    """The ``wanted`` of ``jobs`` and all that they were made of, in the order of ``jobs``."""
    above = _above(jobs)
    found = wanted.union(*(above[job] for job in wanted))
    return [job for job in jobs if job in found]


def _above(jobs: list[Job]) -> dict[Job, set[Job]]:
    """All jobs that a job depends on, directly or not."""
    maker = {path: job for job in jobs for path in job.about["outputs"]}
    above: dict[Job, set[Job]] = {}

    def of(job: Job) -> set[Job]:
        if job not in above:
            above[job] = set()
            direct = {maker[path] for path in job.about["inputs"] if path in maker} - {job}
            above[job] = direct.union(*(of(other) for other in direct))
        return above[job]

    for job in jobs:
        of(job)
    return above


def _images_of(job: Job) -> Iterator[tuple[str, dict[str, Any]]]:
    """The raw images that a job made, as its index lists them."""
    index = job.about["images"]
    if index is None or not _is_as_made(Path(index), job):  # it is named itself
        return
    table = pq.read_table(index)
    for channel in CHANNELS:
        for name, size, sha256 in zip(
            *(table[f"{what}_{channel}"].to_pylist() for what in ("path", "bytes", "sha256")),
            strict=True,
        ):
            path = (Path(index).parent / name).as_posix()
            yield path, {"bytes": size, "sha256": sha256}


def _is_as_made(path: Path, job: Job) -> bool:
    made = job.about["outputs"].get(path.as_posix())
    return made is not None and path.is_file() and _sum(str(path)) == made["sha256"]


def _raw_files_of(job: Job) -> Iterator[tuple[str, str]]:
    """The files that a source was made of, with their sums (see hpaloc.contents.sum_of_file).

    They are the user's own, or were fetched; those that are gone may be.
    """
    for index in (
        Path(path) for path in job.about["outputs"] if Path(path).name == "index.parquet"
    ):
        contents = read_contents(index.with_name(FILE_NAME))
        if contents is not None:
            listed = [(contents.path(name), sum_) for name, (_, sum_) in contents.files.items()]
        elif job.about["program"] == "collect_hpa_images":
            about = index.with_name("settings.json")
            if not (_is_as_made(index, job) and _is_as_made(about, job)):
                continue  # they are named themselves
            settings = json.loads(about.read_text(encoding="utf-8"))
            table = pq.read_table(index)
            columns = ([f"path_{channel}", f"sha256_{channel}"] for channel in CHANNELS)
            pairs = (
                zip(*(table[name].to_pylist() for name in two), strict=True) for two in columns
            )
            listed = [(f"{settings['root']}/{name}", sum_) for two in pairs for name, sum_ in two]
        else:
            continue
        yield from ((path, sum_) for path, sum_ in listed if sum_ and os.path.isfile(path))


def _sums_of_raw(files: Mapping[str, str], threads: int) -> dict[str, str | OSError]:
    """The sum of each of ``files``, or why it cannot be read."""

    def sum_of(path: str) -> str | OSError:
        try:
            return sum_of_file(path)
        except OSError as error:
            return error

    progress = Progress("compared", len(files), "raw files")
    sums = {}
    with ThreadPoolExecutor(threads) as executor:
        for path, found in zip(files, executor.map(sum_of, files), strict=True):
            sums[path] = found
            progress.add()
    return sums


def _edited(
    raw: Mapping[Job, Mapping[str, str]], sums: Mapping[str, str | OSError]
) -> Iterator[tuple[Job, str, str]]:
    for job, listed in raw.items():
        for path, expected in listed.items():
            found = sums[path]
            if isinstance(found, OSError):
                if expected == UNREADABLE:  # as it was when the source was made
                    continue
                yield job, path, _unreadable(found)
            elif found != expected and path not in job.about["inputs"]:
                yield job, path, EDITED_SINCE


def _is_fetched(path: str, results: Path) -> bool:
    return Path(path).is_relative_to(results / "downloads")


def _sums(files: dict[str, dict[str, Any] | None], threads: int) -> dict[str, Sum]:
    """The sum of every file that is there."""
    there = [path for path in files if os.path.isfile(path)]
    progress = Progress("compared", len(there), "files")

    def sum_of(path: str) -> Sum:
        facts = files[path]
        if facts is not None and os.path.getsize(path) != facts["bytes"]:
            return None
        return _sum(path)

    with ThreadPoolExecutor(threads) as executor:
        sums = {}
        for path, sha256 in zip(there, executor.map(sum_of, there), strict=True):
            sums[path] = sha256
            progress.add()
    return sums


def _sum(path: str) -> Sum:
    try:
        return sum_of_shard(path) if _is_shard(path) else sha256_of_file(path)
    except ValueError:  # no array any more
        return None
    except OSError as error:
        return error


def _is_shard(path: str) -> bool:
    return path.endswith(".npy")


def _compared(path: str, facts: dict[str, Any], sums: Mapping[str, Sum]) -> str | None:
    if path not in sums:
        return DELETED
    found = sums[path]
    if isinstance(found, OSError):
        return _unreadable(found)
    if found == facts["sha256"]:
        return None
    return TRUNCATED if os.path.getsize(path) < facts.get("bytes", 0) else EDITED


def _unreadable(error: OSError) -> str:
    return f"unreadable ({error.strerror or error})"


def _stale(
    path: str,
    facts: dict[str, Any],
    made: dict[str, dict[str, Any]],
    sums: Mapping[str, Sum],
) -> str | None:
    """Why what was made of ``path`` is not what would be made of it now."""
    if path in made:  # also where it is damaged now: what counts is how it was made
        return None if made[path]["sha256"] == facts["sha256"] else "made again since, otherwise"
    if path not in sums:  # a file of the user's, or made before there were records
        return None
    found = sums[path]
    if isinstance(found, OSError):
        return _unreadable(found)
    return None if found == facts["sha256"] else EDITED_SINCE


def _without_record(results: Path, jobs: Sequence[Job]) -> Iterator[Path]:
    known = {Path(path) for job in jobs for path in job.about["outputs"]}
    known |= {copy for job in jobs for copy in job.copies}
    raw = {Path(job.about["images"]).parent for job in jobs if job.about["images"]}
    for path in _files_below(results):
        if raw.intersection(path.parents):  # its images are compared by the index
            continue
        if path not in known and not path.name.endswith((SUFFIX, ".html", FILE_NAME)):
            yield path


def _files_below(results: Path) -> Iterator[Path]:
    """The files in folders of results, sorted; without what is being written."""
    for folder, folders, names in os.walk(results):
        folders[:] = sorted(name for name in folders if name not in NO_RESULTS)
        yield from (Path(folder, name) for name in sorted(names) if name[0] != ".")


def _is_result(path: Path, results: Path) -> bool:
    """Whether a rule made the file, and it may not be deleted freely as arrays may."""
    if not path.is_relative_to(results) or _is_shard(path.name):
        return False
    return not NO_RESULTS.intersection(path.relative_to(results).parts)

"""Many files from many addresses: what is there is kept, the rest is fetched politely."""

import asyncio
import functools
import logging
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from yarl import URL

from hpaloc.files import sha256_of_file, written_whole
from hpaloc.log import InputError, Progress
from hpaloc.web.exchange import Body, Exchange, Gone
from hpaloc.web.files import Fetched, Refused, Unreachable, Wanted
from hpaloc.web.lock import unusable
from hpaloc.web.pace import GivenUp, backoff
from hpaloc.web.policy import place_of

Check = Callable[[Path, str], None]

# A body that the way may have broken is asked for this many times of one address.
_BODIES = 3
# Files under way for each connection: the others are being checked, or wait for their turn.
_FILES_PER_CONNECTION = 3

# Threads that store and check, beyond one for each core: they also wait for the disk.
_WRITERS = 2

_PART = re.compile(r"\..+\.[0-9]+\.part(\.[^.]*)?")

_log = logging.getLogger("hpaloc")


def fetch_all(
    wanted: list[Wanted],
    check: Check,
    network: dict,
    unit: str,
    max_bytes: int,
    gzipped: bool = False,
) -> list[Fetched]:
    """Fetches what is not there yet; the results in the order of ``wanted``.

    ``check(path, content_type)`` looks at a stored file, in a thread, and raises Refused; with a
    ``content_type`` of "" it also decides whether a file that lies there already is good.
    ``network`` holds the keys of the configuration's ``fetch``, ``unit`` names the files in
    progress lines, no file may have more than ``max_bytes`` as stored. ``gzipped`` stores every
    body as a gzip file, however it came (one that came as gzip as it is), else bodies are stored
    decoded.

    The addresses of a file are asked in their order, each up to ``attempts`` times where it fails
    in ways that pass; a host that is set aside or asks for a long pause comes after the others.
    Files appear whole and checked, or not at all; what killed runs left of theirs is removed, so
    the caller must hold the lock of the folder (``hpaloc.web.lock``). Raises InputError where
    files cannot be written, saying how much room is missing; SIGINT and SIGTERM end the program
    after tidying up.
    """
    paths = [item.path for item in wanted]
    if not all(item.addresses for item in wanted):
        raise ValueError("a wanted file has no address")
    if len(set(paths)) < len(paths):
        raise ValueError("two wanted files have the same path")
    _make_ready({path.parent for path in paths})
    found = _what_is_there(wanted, check, unit)
    missing = [item for item in wanted if item.path not in found]
    if missing:
        run = _Run(missing, check, network, unit, max_bytes, gzipped)
        found |= _until_stopped(run.fetch())
    return [found[path] for path in paths]


def _make_ready(folders: set[Path]) -> None:
    """Makes the folders, and removes what killed runs left there: nobody else holds the lock."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            parts = [entry for entry in os.scandir(folder) if _PART.fullmatch(entry.name)]
            for entry in parts:
                os.unlink(entry.path)
        except OSError as error:
            raise unusable(folder, error) from error


def _what_is_there(wanted: list[Wanted], check: Check, unit: str) -> dict[Path, Fetched]:
    """The good ones of the files that lie there already; those that are no use are named."""
    there = [item for item in wanted if item.path.is_file()]

    def look_at(item: Wanted) -> Fetched | str:
        try:
            return _checked(item, None, item.path, "", check)
        except Refused as refusal:
            return str(refusal)

    progress = Progress("checked", len(there), f"{unit} that were there")
    found = {}
    with ThreadPoolExecutor(_cores()) as executor:
        for item, result in zip(there, executor.map(look_at, there), strict=True):
            if isinstance(result, Fetched):
                found[item.path] = result
            else:
                _log.warning("%s: removed, to be fetched again: %s", item.path, result)
                item.path.unlink(missing_ok=True)
            progress.add()
    return found


def _checked(item: Wanted, url: str | None, path: Path, content_type: str, check: Check) -> Fetched:
    """The record of a file that passes. Raises Refused."""
    check(path, content_type)
    return Fetched(item.name, item.path, url, path.stat().st_size, sha256_of_file(path), "", False)


class _Run:
    """The fetching of the files that are missing."""

    def __init__(
        self, missing: list[Wanted], check: Check, network: dict, unit: str,
        max_bytes: int, gzipped: bool,
    ):  # fmt: skip
        self._missing, self._check, self._network = missing, check, network
        self._exchange = Exchange(network, max_bytes, gzipped)
        self._progress = Progress("asked for", len(missing), unit)
        self._results: dict[Path, Fetched] = {}
        self._bytes = 0

    async def fetch(self) -> dict[Path, Fetched]:
        hosts = {URL(address).host for item in self._missing for address in item.addresses[:1]}
        workers = _FILES_PER_CONNECTION * self._network["connections"] * max(1, len(hosts))
        queue = iter(self._missing)  # shared: each worker takes the next one
        with ThreadPoolExecutor(_cores() + _WRITERS) as self._threads:
            async with self._exchange:
                tasks = [
                    asyncio.create_task(self._work(queue))
                    for _ in range(min(workers, len(self._missing)))
                ]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        return self._results

    async def _work(self, queue) -> None:
        for item in queue:
            try:
                result = await self._fetch(item)
            except OSError as error:  # those of the network have become Unreachable
                raise InputError(self._unwritable(item, error)) from error
            self._results[item.path] = result
            self._bytes += result.bytes
            self._progress.add()

    async def _fetch(self, item: Wanted) -> Fetched:
        """Asks the addresses of a file until one gives it."""
        refused: dict[str, Refused] = {}
        unreachable: dict[str, Unreachable] = {}
        tries, bodies = Counter(), Counter()
        hosts = {}
        for address in item.addresses:
            try:
                hosts[address] = self._exchange.host_of(address)
            except Refused as refusal:
                refused[address] = refusal
        while hosts:
            # The first one whose host takes requests now, else the first.
            address = next((a for a in hosts if hosts[a].is_ready()), next(iter(hosts)))
            tries[address] += 1
            try:
                return await self._try(item, address)
            except Refused as refusal:
                bodies[address] += 1
                if not refusal.again or bodies[address] >= _BODIES:
                    refused[address] = refusal
                    del hosts[address]
                    continue
            except Unreachable as error:
                unreachable[address] = error
                if isinstance(error, GivenUp) or tries[address] >= self._network["attempts"]:
                    del hosts[address]
                    continue
            await asyncio.sleep(backoff(tries[address], self._network["timeout_s"]))
        answers = {
            address: refused.get(address) or unreachable[address] for address in item.addresses
        }
        return Fetched(
            item.name, item.path, None, 0, "",
            reason="; ".join(f"{place_of(a)}: {answer}" for a, answer in answers.items()),
            temporary=len(refused) < len(answers),
            gone=all(isinstance(answer, Gone) for answer in answers.values()),
        )  # fmt: skip

    async def _try(self, item: Wanted, address: str) -> Fetched:
        """The file from one address."""
        body = await self._exchange.fetch(address, item.path.parent)
        store = functools.partial(self._store, item, address, body)
        return await asyncio.get_running_loop().run_in_executor(self._threads, store)

    def _store(self, item: Wanted, address: str, body: Body) -> Fetched:
        """Stores a body beside its place, checks it there and gives it its name, in a thread."""
        with body.file, written_whole(item.path) as aside:
            body.file.seek(0)
            with open(aside, "wb") as file:
                shutil.copyfileobj(body.file, file)
                file.flush()
                # What the name stands for is on the disk, whatever becomes of the machine.
                os.fsync(file.fileno())
            return _checked(item, address, aside, body.content_type, self._check)

    def _unwritable(self, item: Wanted, error: OSError) -> str:
        done = [result for result in self._results.values() if result.bytes]
        left = len(self._missing) - len(self._results)
        need = ""
        if done:
            gigabytes = left * self._bytes / len(done) / 1e9
            need = f", about {gigabytes:.2g} GB by the size of those that are here"
        return (
            f"{item.path}: cannot be written ({error.strerror or error}). {left} files are still"
            f" to come{need}. Make room there, or link the folder to a larger disk, and run again:"
            " what is here is kept."
        )


def _until_stopped(work: Coroutine[Any, Any, dict]) -> dict:
    """Runs ``work``; SIGINT and SIGTERM cancel it, and end the program once it has tidied up."""
    signals: list[int] = []

    async def stoppable() -> dict:
        if threading.current_thread() is not threading.main_thread():
            return await work
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            signals.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            return await work
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        if not signals:
            raise
        _log.warning("stopped by %s; run again to go on", signal.Signals(signals[0]).name)
        raise SystemExit(128 + signals[0]) from None


def _cores() -> int:
    return len(os.sched_getaffinity(0))

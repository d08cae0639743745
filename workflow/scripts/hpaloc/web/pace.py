"""How often a host is asked: connections, rate, pauses that it asks for, and dead hosts.

All times scale with ``timeout_s`` of the configuration, so that one key suits a slow network, a
quick one and a test: a pause between attempts begins below timeout_s / 60 and is never longer
than timeout_s, a host that fails many times in a row is set aside for timeout_s / 4, and one that
asks for a pause gets up to 10 × timeout_s.
"""

import asyncio
import email.utils
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hpaloc.log import duration
from hpaloc.web.files import Unreachable

_SLOWEST = 16  # a host that has too much to do is asked down to this part of the rate
_LEAST_INTERVAL_S = 0.01
_RECOVERY = 0.98  # every good answer shortens the time between requests by this factor

_log = logging.getLogger("hpaloc")


class GivenUp(Unreachable):
    """No further request to this host in this run."""


def backoff(attempt: int, timeout_s: float) -> float:
    """Seconds until attempt ``attempt`` + 1 (from 1): exponential, with full jitter."""
    return random.uniform(0, min(timeout_s, timeout_s / 60 * 2**attempt))


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in seconds or as a date; None without one."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


class Host:
    """One host and port: at most ``connections`` requests at a time, ``rate`` a second, evenly."""

    def __init__(self, name: str, network: dict):
        self.name = name
        self._timeout_s = network["timeout_s"]
        self._interval = 1 / (network["requests_per_second"] or math.inf)
        self._free = asyncio.Semaphore(network["connections"])
        self._slowed = 1.0  # the interval is this much longer
        self._next_start = 0.0
        self._paused_until = 0.0
        # Failures in a row, and what they lead to.
        self._failures = 0
        self._most_failures = network["attempts"] + network["connections"]
        self._rests = 0
        self._most_rests = network["attempts"]
        self._probing = False
        self._probe_done = asyncio.Event()
        self._rested_at = self._slowed_at = 0.0
        self._given_up = ""  # why

    def is_ready(self) -> bool:
        """Whether a request would begin soon: not set aside, and not in a long pause."""
        pause = self._paused_until - time.monotonic()
        if self._rests:
            return not self._given_up and not self._probing and pause <= 0
        return pause < self._timeout_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """One request: waits for its time and gives it. Raises Unreachable for a dead host.

        Afterwards exactly one of ``answered`` and ``failed`` is to be called with that time.
        """
        async with self._free:
            probe = await self._wait()
            try:
                yield time.monotonic()
            finally:
                if probe:
                    self._probing = False
                    self._probe_done.set()

    async def _wait(self) -> bool:
        """Waits for pauses and the rate; True where this request is to find out if a host lives."""
        while True:
            if self._given_up:
                raise GivenUp(f"{self._given_up}, again and again")
            pause = self._paused_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
                continue
            if self._rests and self._probing:
                await self._probe_done.wait()
                continue
            delay = self._slot()
            if delay > 0.001:  # shorter sleeps are not kept by the loop
                await asyncio.sleep(delay)
            if self._paused_until > time.monotonic() or (self._rests and self._probing):
                continue
            if self._rests:
                self._probing = True
                self._probe_done.clear()
            return self._probing

    def _slot(self) -> float:
        """Takes the next time at which a request may start; seconds until then."""
        now = time.monotonic()
        start = max(now, self._next_start)
        interval = self._interval
        if self._slowed > 1:  # a host that has too much to do has a rate even where none is set
            interval = max(interval, _LEAST_INTERVAL_S) * self._slowed
        self._next_start = start + interval
        return start - now

    def answered(self) -> None:
        """The host works, whatever it said."""
        if self._rests:
            _log.info("%s answers again", self.name)
        self._failures = self._rests = 0

    def was_good(self) -> None:
        self._slowed = max(1.0, self._slowed * _RECOVERY)

    def is_busy(self, started: float, pause_s: float | None) -> None:
        """429 or 503, to a request that began at ``started``: slower, and after a pause."""
        now = time.monotonic()
        if started > self._slowed_at:  # not once more for each request of the same moment
            self._slowed = min(_SLOWEST, self._slowed * 2)
            self._slowed_at = now
        if pause_s is None:
            return
        pause_s = min(pause_s, 10 * self._timeout_s)
        if now + pause_s > self._paused_until:
            if self._paused_until <= now:
                _log.info("%s asks for a pause of %s", self.name, duration(pause_s))
            self._paused_until = now + pause_s

    def failed(self, started: float, reason: str) -> None:
        """Nothing usable came of a request that began at ``started``, but may another time."""
        if started <= self._rested_at:
            return
        self._failures += 1
        if not self._rests and self._failures < self._most_failures:
            return
        now = time.monotonic()
        self._rests += 1
        self._failures = 0
        self._rested_at = now
        self._paused_until = max(self._paused_until, now + self._timeout_s / 4)
        if self._rests == 1:
            _log.warning("%s: %s; set aside, and tried again now and then", self.name, reason)
        if self._rests > self._most_rests:
            self._given_up = reason
            _log.warning("%s: still %s; given up for this run", self.name, reason)

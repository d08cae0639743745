"""Rate, pauses and dead hosts, on a clock that the test turns."""

import asyncio
import email.utils
import time
from itertools import pairwise

import pytest

from hpaloc.web import pace
from hpaloc.web.pace import GivenUp, Host, backoff, retry_after

NETWORK = {"connections": 4, "requests_per_second": 10, "attempts": 3, "timeout_s": 60}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where something sleeps."""

    class Clock:
        now = 1000.0

        async def sleep(self, seconds):
            until = self.now + seconds
            await real_sleep(0)
            self.now = max(self.now, until)

    real_sleep = asyncio.sleep
    clock = Clock()
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(pace.asyncio, "sleep", clock.sleep)
    return clock


def turns(host: Host, count: int) -> list[float]:
    async def take():
        times = []
        for _ in range(count):
            async with host.turn() as started:
                times.append(started)
                host.answered()
        return times

    return asyncio.run(take())


def test_requests_come_evenly_at_the_rate(clock):
    times = turns(Host("a", NETWORK), 11)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == pytest.approx([0.1] * 10)


def test_no_burst_after_a_rest(clock):
    host = Host("a", NETWORK)
    turns(host, 2)
    clock.now += 100
    times = turns(host, 3)
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.1, 0.1])


def test_no_more_requests_at_a_time_than_connections():
    host = Host("a", {**NETWORK, "requests_per_second": 1e9})
    running = most = 0

    async def request():
        nonlocal running, most
        async with host.turn():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    async def all_of_them():
        await asyncio.gather(*(request() for _ in range(40)))

    asyncio.run(all_of_them())
    assert most == 4


def test_retry_after_holds_for_the_whole_host_and_is_capped(clock):
    host = Host("a", NETWORK)
    host.is_busy(clock.now, 30)
    assert turns(host, 1)[0] >= 1030
    start = clock.now
    host.is_busy(clock.now, 1e9)
    assert not host.is_ready()  # another address comes first
    assert turns(host, 1)[0] == pytest.approx(start + 600, abs=2)


def test_a_busy_host_is_asked_slower_until_it_is_well_again(clock):
    host = Host("a", NETWORK)
    started = clock.now
    for _ in range(5):  # answers to requests of the same moment count once
        host.is_busy(started, None)
        clock.now += 0.01
    turns(host, 1)
    times = turns(host, 2)
    assert times[1] - times[0] == pytest.approx(0.2)
    for _ in range(100):
        host.was_good()
    turns(host, 1)
    times = turns(host, 2)
    assert times[1] - times[0] == pytest.approx(0.1)


def test_a_busy_host_has_a_rate_even_where_none_is_set(clock):
    host = Host("a", {**NETWORK, "requests_per_second": None})
    assert len(set(turns(host, 5))) == 1
    host.is_busy(clock.now + 1, None)
    times = turns(host, 5)
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.02] * 4)


def test_a_dead_host_is_set_aside_probed_and_given_up(clock, caplog):
    host = Host("a", NETWORK)

    async def fail():
        async with host.turn() as started:
            host.failed(started, "connection refused")
            return started

    for _ in range(7):
        assert host.is_ready()
        asyncio.run(fail())
    assert not host.is_ready()
    probes = []
    with pytest.raises(GivenUp):
        for _ in range(100):
            probes.append(asyncio.run(fail()))
    assert [b - a for a, b in pairwise(probes)] == pytest.approx([15, 15], abs=1)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_one_request_finds_out_whether_a_host_lives_again(clock):
    host = Host("a", NETWORK)
    for _ in range(7):
        host.failed(clock.now, "no connection")
    order = []

    async def probe(number):
        async with host.turn():
            order.append(("begins", number))
            await asyncio.sleep(5)
            host.answered()
            order.append(("ends", number))

    async def all_of_them():
        await asyncio.gather(*(probe(number) for number in range(3)))

    asyncio.run(all_of_them())
    assert order[:2] == [("begins", 0), ("ends", 0)]
    assert host.is_ready()


def test_failures_that_answers_interrupt_set_nobody_aside(clock):
    host = Host("a", NETWORK)
    for _ in range(50):
        for _ in range(6):
            host.failed(clock.now, "no connection")
        host.answered()
    assert host.is_ready()


def test_backoff_grows_with_full_jitter_up_to_the_timeout():
    for attempt, most in ((1, 2), (2, 4), (5, 32), (9, 60)):
        drawn = [backoff(attempt, 60.0) for _ in range(500)]
        assert 0 <= min(drawn) < most * 0.1
        assert most * 0.9 < max(drawn) <= most


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7), (" 0 ", 0), ("-3", None), ("soon", None), ("", None), ("٣", None)],
)
def test_retry_after_in_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    assert retry_after(email.utils.formatdate(time.time() + 90, usegmt=True)) == pytest.approx(
        90, abs=3
    )
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0

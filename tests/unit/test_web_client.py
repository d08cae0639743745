"""Fetching against a server that misbehaves on purpose: every fault ends well, in time, in words."""

import asyncio
import gzip
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from atlas_server import NOT_FOUND, Answer, AtlasServer
from workspace import PROJECT
from zygote import Zygote

from hpaloc.log import InputError
from hpaloc.web import client, policy
from hpaloc.web.client import fetch_all
from hpaloc.web.exchange import Exchange, user_agent
from hpaloc.web.files import Fetched, Refused, Wanted

NETWORK = {
    "connections": 4, "requests_per_second": 2000, "attempts": 3, "timeout_s": 0.5,
    "contact": "", "private_addresses": True,
}  # fmt: skip

END = b"-- end"


def body_of(path: str) -> bytes:
    """What the server has under a path: some kilobytes that tell the path, and an end marker."""
    return f"{path} ".encode() * 500 + END


def check(path: Path, content_type: str) -> None:
    body = path.read_bytes()
    if content_type.startswith("text/html"):
        raise Refused("a page")
    if not body.endswith(END):
        raise Refused("its end is missing", again=True)


@pytest.fixture
def server():
    with AtlasServer(body_of) as server:
        yield server


def fetch(server, folder, names, *, others=(), **network) -> list[Fetched]:
    """Fetches ``/a/<name>``, or else the same of the other servers."""
    wanted = [
        Wanted(name, tuple(s.url(f"/a/{name}") for s in (server, *others)), folder / name)
        for name in names
    ]
    return fetch_all(wanted, check, {**NETWORK, **network}, "files", 100_000)


def assert_whole(folder: Path, names) -> None:
    """Exactly these files, each with its contents."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for name in names:
        assert (folder / name).read_bytes() == body_of(f"/a/{name}")


WHOLE = body_of("/a/x")
HTML = Answer(200, b"<html>not here</html>", "text/html")

# What passes when asked again, and how often the server is asked in all.
PASSING = {
    "reset in the middle": Answer(body=WHOLE, sent=900, end="reset"),
    "truncated": Answer(body=WHOLE, sent=900, end="close"),
    "truncated without a length": Answer(body=WHOLE, declared=-1, sent=900, end="close"),
    "shorter than declared, and silent": Answer(body=WHOLE, declared=len(WHOLE) + 9, end="hang"),
    "shorter than declared": Answer(body=WHOLE, declared=len(WHOLE) + 9, end="close"),
    "longer than declared": Answer(body=WHOLE, declared=900),
    "never answers": Answer(silent=True),
    "hangs after the head": Answer(body=WHOLE, sent=0, end="hang"),
    "trickled body": Answer(body=WHOLE, piece=1, pause_s=0.02),
    "trickled head": Answer(body=WHOLE, head_pause_s=0.05),
    "broken body": Answer(body=WHOLE[:900]),
    "closed without an answer": Answer(body=b"", sent=0, end="reset", declared=-1),
    "408": Answer(408),
    "429": Answer(429),
    "500": Answer(500),
    "503 with a page": Answer(503, b"<html>" + b"x" * 200_000, "text/html"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_asked_for_again(server, tmp_path, fault):
    server.faults["/a/x"] = [PASSING[fault]]
    (result,) = fetch(server, tmp_path, ["x"])
    assert (result.reason, result.url) == ("", server.url("/a/x"))
    assert result.bytes == len(WHOLE)
    assert server.counts == {"/a/x": 2}
    assert_whole(tmp_path, ["x"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset in the middle", "truncated|reset"),
        ("truncated", "truncated"),
        ("never answers", "no answer in time"),
        ("trickled body", "too slow"),
        ("trickled head", "no answer in time"),
        ("503 with a page", "503"),
    ],
)
def test_what_does_not_pass_ends_as_temporary(server, tmp_path, fault, reason):
    server.faults["/a/x"] = [PASSING[fault]] * 9
    start = time.monotonic()
    x, y = fetch(server, tmp_path, ["x", "y"], attempts=2)
    # The bound is what the settings allow: two attempts, and the pause between them.
    assert time.monotonic() - start < 2 * 2 * NETWORK["timeout_s"] + 1
    assert x.temporary and not x.gone and x.url is None
    assert server.counts["/a/x"] == 2
    assert re.search(reason, x.reason)
    assert y.reason == ""
    assert_whole(tmp_path, ["y"])


@pytest.mark.parametrize(
    ("answer", "reason", "gone"),
    [
        (NOT_FOUND, "404", True),
        (Answer(410), "410", True),
        (Answer(403), "403", False),
        (Answer(204), "204", False),
        (HTML, "a page", False),
        (Answer(body=b"x" * 200_000), "larger than 100000 bytes", False),
        (Answer(body=b"x" * 200_000, declared=-1, end="close"), "larger than", False),
    ],
)
def test_what_is_no_use_is_asked_once_and_then_elsewhere(server, tmp_path, answer, reason, gone):
    server.faults["/a/x"] = [answer] * 2
    (result,) = fetch(server, tmp_path, ["x"])
    assert reason in result.reason and not result.temporary and result.gone == gone
    assert server.counts == {"/a/x": 1}
    assert_whole(tmp_path, [])
    with AtlasServer(body_of) as mirror:
        (result,) = fetch(server, tmp_path, ["x"], others=[mirror])
        assert result.url == mirror.url("/a/x")
        assert mirror.counts == {"/a/x": 1}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "closed without an answer"),
        (b"<html>hello</html>", "no HTTP answer"),
        (b"\0\xff garbage\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 50_000 + b"\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc", "truncated"),
        (
            b"HTTP/1.1 500 \xff\xfe\0secret\r\nContent-Length: 0\r\n\r\n",
            "500 Internal Server Error",
        ),
        (b"HTTP/1.1 302 F\r\nLocation: http://\xff\xfe:99999/\r\n\r\n", "which is no address"),
        (b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n", "302 Found"),
    ],
)
def test_answers_that_are_none_end_in_words_that_can_be_written(server, tmp_path, raw, reason):
    server.faults["/a/x"] = [Answer(raw=raw)] * 9
    (result,) = fetch(server, tmp_path, ["x"], attempts=2)
    assert result.reason.endswith(reason) and result.reason.encode()
    assert_whole(tmp_path, [])


def test_a_body_that_stays_broken_is_asked_for_three_times(server, tmp_path):
    server.faults["/a/x"] = [PASSING["broken body"]] * 9
    (result,) = fetch(server, tmp_path, ["x"], attempts=6)
    assert "its end is missing" in result.reason and not result.temporary
    assert server.counts == {"/a/x": 3}


def test_all_addresses_are_in_the_reason(server, tmp_path):
    with AtlasServer(lambda path: HTML) as mirror:
        server.faults["/a/x"] = [NOT_FOUND]
        (result,) = fetch(server, tmp_path, ["x"], others=[mirror])
        assert result.reason == (
            f"127.0.0.1:{server.port}: 404 Not Found; 127.0.0.1:{mirror.port}: a page"
        )
        assert not result.gone


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all_requests_to_the_host(server, tmp_path, status, form):
    # A date has whole seconds: two of them are one at least.
    value = "1"
    if form == "date":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    server.faults["/a/00"] = [Answer(status, headers=(("Retry-After", value),))]
    names = [f"{number:02d}" for number in range(12)]
    results = fetch(server, tmp_path, names, connections=1)
    assert all(result.reason == "" for result in results)
    first = server.asked[0].time
    assert min(asked.time for asked in server.asked[1:]) - first > 0.9
    assert server.counts["/a/00"] == 2


def redirects(ways: dict[str, str], status: int = 302):
    def answer(path):
        if path in ways:
            return Answer(status, b"moved", headers=(("Location", ways[path]),))
        return body_of(path)

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(tmp_path, status):
    with AtlasServer(body_of) as there:
        ways = {"/a/x": "../b/x", "/b/x": there.url("/a/x")}
        with AtlasServer(redirects(ways, status)) as server:
            (result,) = fetch(server, tmp_path, ["x"])
        assert result.url == server.url("/a/x")
        assert_whole(tmp_path, ["x"])


@pytest.mark.parametrize(
    ("ways", "reason"),
    [
        ({"/a/x": "/b", "/b": "/a/x"}, "redirected in a loop"),
        ({"/a/x": "/1", **{f"/{k}": f"/{k + 1}" for k in range(1, 99)}}, "more than 5 times"),
        ({"/a/x": "ftp://127.0.0.1/x"}, "from http to ftp"),
        ({"/a/x": "file:///etc/passwd"}, "from http to file"),
        ({"/a/x": "http://["}, "no address"),
    ],
)
def test_redirects_that_lead_nowhere_are_refused(tmp_path, ways, reason):
    with AtlasServer(redirects(ways)) as server:
        (result,) = fetch(server, tmp_path, ["x"])
        assert reason in result.reason and not result.temporary
        assert len(server.asked) <= 6
    assert_whole(tmp_path, [])


def test_a_public_host_cannot_redirect_to_a_private_one(tmp_path, monkeypatch):
    """127.0.0.1 is made public for this test; the private one listens, and is never asked."""
    monkeypatch.setattr(policy, "is_public", lambda address: address == "127.0.0.1")
    real = policy.socket.getaddrinfo

    def look_up(host, *rest, **more):
        return real("127.0.0.2" if host == "inner.example.org" else host, *rest, **more)

    monkeypatch.setattr(policy.socket, "getaddrinfo", look_up)
    with AtlasServer(body_of, host="127.0.0.2") as inner:
        for target in (inner.url("/a/x"), f"http://inner.example.org:{inner.port}/a/x"):
            with AtlasServer(redirects({"/a/x": target})) as server:
                (result,) = fetch(server, tmp_path, ["x"], private_addresses=False)
                assert "in a private network" in result.reason and not result.temporary
                (allowed,) = fetch(server, tmp_path / "allowed", ["x"], private_addresses=True)
                assert allowed.reason == ""
                (tmp_path / "allowed" / "x").unlink()
        assert inner.counts == {"/a/x": 2}


def test_private_addresses_are_refused_by_default(server, tmp_path):
    (result,) = fetch(server, tmp_path, ["x"], private_addresses=False)
    assert "in a private network" in result.reason and not result.temporary
    assert not server.asked


def test_a_dead_host_costs_a_few_requests_and_the_mirror_gives_all(tmp_path, caplog):
    with AtlasServer(body_of) as dead:
        pass
    names = [f"{number:04d}" for number in range(300)]
    with AtlasServer(body_of) as mirror:
        results = fetch(dead, tmp_path, names, others=[mirror])
        assert {result.url for result in results} == {mirror.url(f"/a/{name}") for name in names}
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert 1 <= len(told) <= 2 and "connection refused; set aside" in told[0]


def test_a_dead_host_without_a_mirror_is_given_up(tmp_path):
    with AtlasServer(body_of) as dead:
        pass
    start = time.monotonic()
    results = fetch(dead, tmp_path, [str(number) for number in range(2000)])
    # Six rests of an eighth of a second, and a few attempts: not 2,000 times three.
    assert time.monotonic() - start < 10
    assert all(result.temporary for result in results)
    assert "connection refused, again and again" in results[-1].reason


def test_a_host_that_fails_at_everything_is_given_up_too(tmp_path):
    with AtlasServer(lambda path: Answer(503)) as server:
        results = fetch(server, tmp_path, [str(number) for number in range(500)])
        assert all(result.temporary for result in results)
        assert len(server.asked) < 100
    assert "503 Service Unavailable, again and again" in results[-1].reason


def test_large_bodies_go_through_the_disk(tmp_path):
    """More than is kept in memory; the folder holds nothing else afterwards."""
    body = bytes(range(256)) * 20_000 + END
    with AtlasServer(lambda path: body) as server:
        wanted = [Wanted("x", (server.url("/x"),), tmp_path / "x")]
        (result,) = fetch_all(wanted, check, NETWORK, "files", 10**7)
        assert result.reason == "" and (tmp_path / "x").read_bytes() == body
        assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_slow_network_that_goes_on_is_waited_for(tmp_path):
    """Twice the timeout in all, but never still, and above the least speed."""
    body = bytes(60_000) + END
    with AtlasServer(lambda path: Answer(body=body, piece=3000, pause_s=0.05)) as server:
        wanted = [Wanted("x", (server.url("/x"),), tmp_path / "x")]
        (result,) = fetch_all(wanted, check, NETWORK, "files", 10**7)
        assert result.reason == "" and server.counts == {"/x": 1}


def test_the_proxy_of_the_environment_is_asked(tmp_path, monkeypatch):
    with AtlasServer(lambda url: body_of(url.removeprefix("http://a.example.org"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        wanted = [Wanted("x", ("http://a.example.org/a/x",), tmp_path / "x")]
        network = {**NETWORK, "private_addresses": False}
        (result,) = fetch_all(wanted, check, network, "files", 100_000)
        assert result.reason == ""
        assert proxy.counts == {"http://a.example.org/a/x": 1}
    assert_whole(tmp_path, ["x"])


def test_what_is_there_is_checked_and_kept(server, tmp_path):
    fetch(server, tmp_path, ["a", "b", "c"])
    (tmp_path / "b").write_bytes(b"cut off")
    (tmp_path / ".c.123.part").write_bytes(b"left by a killed run")
    a, b, c = fetch(server, tmp_path, ["a", "b", "c"])
    assert (a.url, b.url, c.url) == (None, server.url("/a/b"), None)
    assert server.counts == {"/a/a": 1, "/a/b": 2, "/a/c": 1}
    assert_whole(tmp_path, ["a", "b", "c"])
    assert a.sha256 and a.bytes == len(body_of("/a/a"))


def test_a_bad_file_that_cannot_be_had_does_not_stay(server, tmp_path):
    (tmp_path / "x").write_bytes(b"cut off")
    server.faults["/a/x"] = [NOT_FOUND]
    (result,) = fetch(server, tmp_path, ["x"])
    assert result.gone
    assert_whole(tmp_path, [])


def test_no_more_connections_than_allowed_and_the_rate_is_kept(tmp_path):
    with AtlasServer(body_of, latency_s=0.01) as server:
        fetch(server, tmp_path, [str(k) for k in range(60)], connections=3)
        assert server.most_busy <= 3 and server.connections <= 3
    with AtlasServer(body_of) as server:
        fetch(server, tmp_path / "slow", [str(k) for k in range(21)], requests_per_second=50)
        times = sorted(asked.time for asked in server.asked)
        assert times[-1] - times[0] >= 0.9 * 20 / 50


def test_who_asks_is_said(server, tmp_path):
    fetch(server, tmp_path, ["x"], contact="me@example.org")
    headers = server.asked[0].headers
    assert headers["user-agent"] == "hpaloc/1.0 (research workflow; me@example.org)"
    assert headers["accept-encoding"] == "identity"
    with pytest.raises(InputError, match="contact"):
        user_agent("a\r\nCookie: b")


def test_bodies_stored_as_gzip(tmp_path):
    packed = Answer(body=gzip.compress(b"entry"), headers=(("Content-Encoding", "gzip"),))
    with AtlasServer(lambda path: packed if path == "/p" else b"entry") as server:
        wanted = [Wanted(n, (server.url(f"/{n}"),), tmp_path / f"{n}.gz") for n in ("p", "q")]
        results = fetch_all(wanted, lambda *_: None, NETWORK, "entries", 1000, gzipped=True)
        assert [gzip.decompress(r.path.read_bytes()) for r in results] == [b"entry"] * 2
        assert server.asked[0].headers["accept-encoding"] == "gzip"


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be (written|used)"):
        fetch(server, tmp_path / "file", ["x"])


DRIVER = """
import sys
sys.path[:0] = [{scripts!r}, {tests!r}, {unit!r}]
from hpaloc.log import run_program
import test_web_client
run_program(lambda: test_web_client.drive({arguments!r}))
"""


def drive(arguments: list) -> None:
    """Fetches in a process of its own: address of the server, folder, number of files, settings."""
    address, folder, count, network = arguments
    names = [f"{number:04d}" for number in range(count)]
    wanted = [Wanted(name, (f"{address}/a/{name}",), Path(folder) / name) for name in names]
    pause_s = network.pop("check_s", 0)

    def checked(path, content_type):
        if pause_s:
            print("checking", file=sys.stderr, flush=True)
            time.sleep(pause_s)
        check(path, content_type)

    fetch_all(wanted, checked, {**NETWORK, **network}, "files", 100_000_000)


def driver_code(*arguments) -> str:
    places = {"scripts": PROJECT / "workflow" / "scripts", "tests": PROJECT / "tests"}
    places["unit"] = PROJECT / "tests" / "unit"
    return DRIVER.format(arguments=arguments, **{key: str(path) for key, path in places.items()})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_ends_soon_and_leaves_whole_files_only(tmp_path, number):
    names = [f"{k:04d}" for k in range(8)]
    with AtlasServer(body_of) as server:
        for name in names[5:]:
            server.faults[f"/a/{name}"] = [Answer(body=WHOLE, sent=900, end="hang")] * 9
        code = driver_code(server.url(), str(tmp_path), 8, {"timeout_s": 600})
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(server.asked) == 8 and len(list(tmp_path.glob("0*"))) == 5)
        process.send_signal(number)
        _, words = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in words and "Traceback" not in words
    assert_whole(tmp_path, names[:5])


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_disk_is_named_with_what_is_needed(tmp_path):
    """On a file system of 64 KB: files of it that are there are whole, and no part of one stays."""
    with AtlasServer(body_of) as server:
        code = driver_code(server.url(), str(tmp_path), 60, {})
        script = (
            f"mount -t tmpfs -o size=64k none {tmp_path} || exit 99\n"
            f'{sys.executable} -c "$CODE"; rc=$?\n'
            f"cd {tmp_path}; ls -A; tail -qc {len(END)} 0*; exit $rc"
        )
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script],
            capture_output=True, text=True, env={**os.environ, "CODE": code}, check=False,
        )  # fmt: skip
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be made here: {done.stderr.strip()}")
    assert done.returncode == 1
    assert f"{tmp_path}/0" in done.stderr and "No space left on device" in done.stderr
    assert "files are still to come, about" in done.stderr
    assert "Traceback" not in done.stderr
    *names, ends = done.stdout.splitlines()
    assert len(names) > 2 and all(name.isdigit() for name in names)
    assert ends == END.decode() * len(names)


def test_kill_at_any_moment_twenty_times_and_then_all_is_right(tmp_path):
    """What was whole at a kill is never asked for again; what was not is, and comes whole."""
    count = 160
    names = [f"{number:04d}" for number in range(count)]

    def pieces(path, number):
        # Bodies in slow pieces: kills hit the middle of files.
        return Answer(body=body_of(path), piece=1000, pause_s=0.002)

    with ExitStack() as stack:
        server = stack.enter_context(AtlasServer(body_of))
        server.every = pieces
        arguments = [server.url(), str(tmp_path), count, {"requests_per_second": 100}]
        moments = random.Random(7)
        whole, asked_then, mid_file = set(), {}, 0
        zygote = stack.enter_context(Zygote("test_web_client"))
        for _ in range(20):
            before = len(server.asked)
            zygote.start(arguments)
            wait_for(lambda: len(server.asked) > before or not zygote.is_running())  # noqa: B023
            time.sleep(moments.uniform(0, 0.08))
            mid_file += server.busy > 0
            zygote.kill()
            there = {path.name for path in tmp_path.iterdir() if path.name.isdigit()}
            for name in there:
                assert (tmp_path / name).read_bytes() == body_of(f"/a/{name}")
            counts = server.counts
            assert all(counts[f"/a/{name}"] == asked_then[name] for name in whole)
            whole, asked_then = there, {name: counts[f"/a/{name}"] for name in there}
        assert mid_file >= 10 and 0 < len(whole) < count
        server.every = lambda path, number: None
        results = fetch(server, tmp_path, names)
        counts = server.counts
        assert all(result.reason == "" for result in results)
        assert_whole(tmp_path, names)
        assert all(counts[f"/a/{name}"] == asked_then[name] for name in whole)
        # A kill costs at most the files under way: coming, or waiting to be stored.
        assert sum(counts.values()) <= count + 20 * 3 * NETWORK["connections"]


def test_fetching_works_beside_another_thread(server, tmp_path):
    """Signals belong to the main thread: elsewhere the client leaves them alone."""
    results = []
    thread = threading.Thread(target=lambda: results.extend(fetch(server, tmp_path, ["x"])))
    thread.start()
    thread.join()
    assert results[0].reason == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_files_for_a_host_that_is_given_up_do_not_wait(tmp_path, monkeypatch):
    pauses = []

    def counted(attempt, timeout_s):
        pauses.append(attempt)
        return 0.0

    monkeypatch.setattr(client, "backoff", counted)
    with AtlasServer(body_of) as dead:
        pass
    results = fetch(dead, tmp_path, [str(number) for number in range(500)])
    assert all(result.temporary for result in results)
    # Those under way when it was set aside have waited; none of the many others.
    assert len(pauses) < 100


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(28, "No space left")])
def test_one_failure_ends_all_others_before_their_session_is_closed(
    tmp_path, monkeypatch, caplog, error
):
    """A thread that raises ends the run at once: nothing more is asked, nothing stays behind."""
    left = []
    close = Exchange.__aexit__

    async def closed(exchange, *about):
        left.extend(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
        await close(exchange, *about)

    def fails(path, content_type):
        raise error

    monkeypatch.setattr(Exchange, "__aexit__", closed)
    with AtlasServer(body_of) as server:
        names = [f"{number:03d}" for number in range(100)]
        for name in names[1:]:
            server.faults[f"/a/{name}"] = [Answer(body=WHOLE, sent=900, end="hang")] * 9
        wanted = [Wanted(name, (server.url(f"/a/{name}"),), tmp_path / name) for name in names]
        with pytest.raises((RuntimeError, InputError), match=r"a defect|No space left"):
            fetch_all(wanted, fails, {**NETWORK, "timeout_s": 60}, "files", 100_000)
        assert len(server.asked) <= NETWORK["connections"] + 1
    assert left == [] and not caplog.records
    assert_whole(tmp_path, [])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of localhost that nobody has signed, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", path, "-out", path,
               "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]  # fmt: skip
    try:
        text = subprocess.run(command, check=True, capture_output=True)
        key = path.read_bytes()
        if b"CERTIFICATE" not in key:  # -out has overwritten -keyout
            pytest.fail(text.stderr.decode())
    except FileNotFoundError:
        pytest.skip("there is no openssl here")
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused_in_words(certificate, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with AtlasServer(body_of, tls=context) as server:
        results = fetch(server, tmp_path, [str(number) for number in range(50)])
        assert not server.asked
        assert all("its certificate is not trusted" in result.reason for result in results)
        # A captive portal or a missing authority: another run, elsewhere, may get it.
        assert all(result.temporary for result in results)
        assert server.connections <= 20
        # The same where whoever runs this vouches for it, by the variable of OpenSSL.
        code = driver_code(server.url(), str(tmp_path), 2, {})
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert done.returncode == 0 and len(server.asked) == 2
    assert_whole(tmp_path, ["0000", "0001"])


def test_a_host_that_speaks_no_tls_is_told_apart(tmp_path):
    def answer(listening):
        with listening.accept()[0] as connection:
            connection.recv(9999)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        wanted = [
            Wanted("x", (f"https://127.0.0.1:{listening.getsockname()[1]}/",), tmp_path / "x")
        ]
        (result,) = fetch_all(wanted, check, {**NETWORK, "attempts": 1}, "files", 9999)
    assert "no TLS connection" in result.reason and result.temporary


def test_endless_answers_before_the_answer_run_out_of_time(server, tmp_path):
    server.faults["/a/x"] = [Answer(endless=b"HTTP/1.1 100 Continue\r\n\r\n" * 100)] * 2
    (result,) = fetch(server, tmp_path, ["x"], attempts=2)
    assert "no answer in time" in result.reason and server.counts == {"/a/x": 2}


def test_cookies_are_not_sent_back(server, tmp_path):
    server.faults["/a/x"] = [Answer(503, headers=(("Set-Cookie", "key=secret; Path=/"),))]
    fetch(server, tmp_path, ["x", "y"], connections=1)
    assert len(server.asked) == 3 and not any("cookie" in asked.headers for asked in server.asked)


def test_a_user_in_an_address_is_for_its_host_and_in_no_words(tmp_path, caplog):
    with AtlasServer(body_of) as there:
        ways = {"/a/x": "/b/x", "/b/x": there.url("/a/x")}
        with AtlasServer(redirects(ways)) as server:
            for user in ("me:secret@", ":secret@"):
                address = server.url("/a/x?key=secret").replace("//", f"//{user}")
                wanted = [Wanted("x", (address,), tmp_path / "x")]
                ways["/a/x?key=secret"] = "/a/x"
                (result,) = fetch_all(wanted, check, NETWORK, "files", 100_000)
                assert result.reason == ""
                (tmp_path / "x").unlink()
                server.faults["/a/x?key=secret"] = [None, NOT_FOUND, None, NOT_FOUND]
                (result,) = fetch_all(wanted, check, NETWORK, "files", 100_000)
                assert result.reason == f"127.0.0.1:{server.port}: 404 Not Found"
            assert all("authorization" in asked.headers for asked in server.asked)
        assert not any("authorization" in asked.headers for asked in there.asked)
    assert "secret" not in caplog.text


def test_ctrl_c_while_files_are_checked_ends_soon(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:04d}").write_bytes(WHOLE)
    code = driver_code("http://127.0.0.1:9", str(tmp_path), 300, {"check_s": 0.1})
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("checking")  # two threads may say it at once
    process.send_signal(signal.SIGINT)
    # Of the 300 checks, 15 s of them on two cores, only those that had begun.
    process.communicate(timeout=12)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert len(list(tmp_path.iterdir())) == 300


def test_nothing_wanted_and_nothing_missing_need_no_loop(server, tmp_path, monkeypatch):
    fetch(server, tmp_path, ["x"])
    monkeypatch.setattr(asyncio, "run", lambda *_: pytest.fail("the network was touched"))
    assert fetch(server, tmp_path, []) == []
    assert fetch(server, tmp_path, ["x"])[0].url is None

"""Which addresses are asked: schemes, private networks, redirects, and names that resolve to them."""

import asyncio
import socket

import pytest
from yarl import URL

from hpaloc.log import InputError
from hpaloc.web.files import Refused
from hpaloc.web.ip_addresses import is_public
from hpaloc.web.policy import CheckedResolver, checked_url, next_url, proxy_of, shown

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "::10.0.0.1", "2002:a00:1::1", "fec0::1",
    "::ffff:0:10.0.0.1", "64:ff9b:1::a00:1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_numbers_are_refused_in_any_spelling(address):
    assert not is_public(address)
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    with pytest.raises(Refused, match="private network"):
        checked_url(f"http://{host}/a", private=False)
    assert checked_url(f"http://{host}/a", private=True).path == "/a"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_public_numbers_are_asked(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "text", ["ftp://a.org/x", "file:///etc/passwd", "a.org/x", "http://", "http://a:99999/", ""]
)
def test_other_schemes_and_no_addresses_are_refused(text):
    with pytest.raises(Refused):
        checked_url(text, private=True)


def resolved(monkeypatch, host: str, numbers: list[str], private: bool = False) -> list[str]:
    def look_up(asked, port, family=0, type=0):
        assert asked == host
        kinds = [socket.AF_INET6 if ":" in number else socket.AF_INET for number in numbers]
        return [(k, type, 6, "", (n, port)) for k, n in zip(kinds, numbers, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    found = asyncio.run(CheckedResolver(private).resolve(host, 80))
    return [entry["host"] for entry in found]


def test_names_are_judged_by_what_they_resolve_to(monkeypatch):
    assert resolved(monkeypatch, "a.org", ["8.8.8.8", "2a00::1"]) == ["8.8.8.8", "2a00::1"]
    # A name with an address of each kind: the connection can only go to the public one.
    assert resolved(monkeypatch, "a.org", ["10.0.0.1", "8.8.8.8"]) == ["8.8.8.8"]
    with pytest.raises(Refused, match=r"a\.org \(10\.0\.0\.1\) is in a private network"):
        resolved(monkeypatch, "a.org", ["10.0.0.1"])
    assert resolved(monkeypatch, "a.org", ["10.0.0.1"], private=True) == ["10.0.0.1"]
    # 2130706433 and 127.1 are names to us, and numbers to the resolver.
    for spelling in ("2130706433", "127.1", "0x7f000001"):
        with pytest.raises(Refused):
            resolved(monkeypatch, spelling, ["127.0.0.1"])


def test_unknown_names_are_errors_of_the_network(monkeypatch):
    def look_up(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(OSError, match="unknown"):
        asyncio.run(CheckedResolver(False).resolve("a.org", 80))


@pytest.mark.parametrize(
    ("url", "location", "reason"),
    [
        ("https://a.org/x", "http://a.org/x", "from https to http"),
        ("http://a.org/x", "ftp://a.org/x", "from http to ftp"),
        ("http://a.org/x", "file:///etc/passwd", "from http to file"),
        ("http://a.org/x", "//10.0.0.1/x", "private network"),
        ("http://a.org/x", "http://[::1]/x", "private network"),
        ("http://a.org/x", "/x", "in a loop"),
        ("http://a.org/x", "http://[", "no address"),
    ],
)
def test_redirects_that_are_not_followed(url, location, reason):
    with pytest.raises(Refused, match=reason):
        next_url(URL(url), location, [URL(url)], private=False)


def test_redirects_that_are_followed():
    start = URL("http://a.org/x/y")
    assert str(next_url(start, "../z?k=1", [start], False)) == "http://a.org/z?k=1"
    assert str(next_url(start, "https://b.org/", [start], False)) == "https://b.org/"
    way = [URL(f"http://a.org/{k}") for k in range(6)]
    with pytest.raises(Refused, match="more than 5 times"):
        next_url(way[-1], "/6", way, False)


def test_messages_show_no_keys():
    assert shown(URL("https://me:secret@a.org/x?token=secret#secret")) == "https://a.org/x"
    assert shown(URL("http://[::1]:80/%20")) == "http://[::1]/%20"
    assert shown(URL("file:///etc/passwd")) == "file:/etc/passwd"


def test_messages_are_short_and_of_letters_that_a_terminal_prints():
    assert "\x1b" not in shown(URL("http://a\x1b.org/\x1b[2J"))
    assert len(shown(URL("http://a.org/" + "x" * 5000))) < 300


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "http://[", "http://me:secret@"])
def test_a_proxy_that_cannot_be_asked_is_told_without_its_key(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(InputError, match=r"http_proxy.*http://HOST:PORT") as caught:
        proxy_of(URL("http://a.org/"))
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("http_proxy", "proxy:3128")  # as curl takes it too
    assert proxy_of(URL("http://a.org/")) == "http://proxy:3128"


def test_proxies_of_the_environment_are_used_for_names_only(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "b.org")
    assert proxy_of(URL("http://a.org/")) == "http://proxy:3128"
    assert proxy_of(URL("http://b.org/")) is None
    assert proxy_of(URL("http://127.0.0.1/")) is None

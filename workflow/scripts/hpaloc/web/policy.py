"""Which addresses are asked at all: schemes, private networks, and where redirects may lead.

A public server must not be able to send this program to a machine of the network it runs in,
neither by a redirect nor by a name that resolves to a private address: numbers are looked at in
every address, and those of names when the connection is made.
"""

import asyncio
import socket
import threading
from urllib.request import getproxies, proxy_bypass

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from hpaloc.log import InputError
from hpaloc.web.files import Refused
from hpaloc.web.ip_addresses import is_number, is_public

MOST_REDIRECTS = 5

_LONGEST_SHOWN = 200


def shown(url: URL) -> str:
    """An address for messages and tables: without user and query, which may be keys; printable."""
    place = f"//{url.host_port_subcomponent}" if url.host else ""
    text = f"{url.scheme}:{place}{url.raw_path}"[:_LONGEST_SHOWN]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shown_address(address: str) -> str:
    """The same of an address as the configuration has it, which may be none."""
    try:
        return shown(URL(address))
    except ValueError:
        return repr(address[:60])


def place_of(address: str) -> str:
    """Host and port of an address, for reasons."""
    try:
        return URL(address).host_port_subcomponent or shown_address(address)
    except ValueError:
        return repr(address[:60])


def checked_url(text: str, private: bool) -> URL:
    """The address to ask. Raises Refused for what is not to be asked."""
    try:
        url = URL(text)
        port = url.port
    except ValueError:
        raise Refused(f"{text[:100]!r} is no address") from None
    if url.scheme not in ("http", "https") or not url.host or not port:
        raise Refused(f"{url.scheme or 'no'} is no scheme to fetch by (http and https are)")
    if not private and is_number(url.host) and not is_public(url.host):
        raise Refused(_private(url.host, url.host))
    return url


def next_url(url: URL, location: str, visited: list[URL], private: bool) -> URL:
    """Where a redirect from ``url`` leads, ``visited`` being all addresses on the way so far.

    Raises Refused for loops, long ways, another scheme (http to https is welcome) and private
    numbers.
    """
    try:
        target = url.join(URL(location))
    except ValueError:
        raise Refused(f"redirected to {location[:100]!r}, which is no address") from None
    if target.scheme not in ("http", "https") or (url.scheme, target.scheme) == ("https", "http"):
        raise Refused(f"redirected from {url.scheme} to {target.scheme}: {shown(target)}")
    if target in visited:
        raise Refused(f"redirected in a loop: {shown(target)}")
    if len(visited) > MOST_REDIRECTS:
        raise Refused(f"redirected more than {MOST_REDIRECTS} times")
    try:
        return checked_url(str(target), private)
    except Refused as refusal:
        raise Refused(f"redirected to {shown(target)}: {refusal}") from None


def proxy_of(url: URL) -> str | None:
    """The proxy that the environment names for an address; machines by number are asked directly.

    A proxy resolves names by itself: what they resolve to is then its own affair. Raises
    InputError, without its text, which may hold a key, for a proxy that is none of HTTP.
    """
    if is_number(url.host) or proxy_bypass(url.host):
        return None
    proxy = getproxies().get(url.scheme)
    if not proxy:
        return None
    text = proxy if "://" in proxy else f"http://{proxy}"
    host, scheme = _host_and_scheme(text)
    if not host or scheme not in ("http", "https"):
        raise InputError(
            f"{url.scheme}_proxy of the environment is no address of an HTTP proxy"
            " (http://HOST:PORT). Correct it, unset it, or name the hosts that need none in"
            " no_proxy."
        )
    return text


def _host_and_scheme(text: str) -> tuple[str | None, str]:
    try:
        url = URL(text)
        return url.host, url.scheme
    except ValueError:
        return None, ""


class CheckedResolver(AbstractResolver):
    """Names to addresses, private ones left out unless ``private`` is true.

    What it returns is what is connected to: a name that changes its address between a check and
    the connection gains nothing.
    """

    def __init__(self, private: bool):
        self._private = private
        self._proxies = {
            _host_and_scheme(proxy if "://" in proxy else f"http://{proxy}")[0]
            for proxy in getproxies().values()
        }

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await _look_up(host, port, family)
        if not self._private and host not in self._proxies:
            allowed = [entry for entry in found if is_public(entry[4][0])]
            if found and not allowed:
                raise Refused(_private(host, found[0][4][0]))
            found = allowed
        return [
            ResolveResult(
                hostname=host,
                host=place[0],
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        pass


async def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple]:
    """getaddrinfo in a thread that nobody waits for: a hanging name server must not hold the end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future = loop.create_future()

    def settle(found: list[tuple] | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        found, failed = None, None
        try:
            found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed = error if isinstance(error, OSError) else OSError(str(error))
        try:
            loop.call_soon_threadsafe(settle, found, failed)
        except RuntimeError:  # the loop was closed meanwhile
            return

    threading.Thread(target=look_up, daemon=True).start()
    return await answer


def _private(host: str, address: str) -> str:
    where = host if host == address else f"{host} ({address})"
    return f"{where} is in a private network (private_addresses of the config allows such)"

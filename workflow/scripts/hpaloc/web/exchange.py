"""One file from one address: the request, its redirects, and the body."""

import asyncio
import contextlib
import ssl
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

import aiohttp
from yarl import URL

from hpaloc.log import InputError
from hpaloc.web.body import body_writer
from hpaloc.web.files import Refused, Unreachable
from hpaloc.web.pace import Host, retry_after
from hpaloc.web.policy import CheckedResolver, checked_url, next_url, proxy_of

LEAST_BYTES_PER_S = 1000  # a body that comes slower, over timeout_s and more, is given up

_STATUSES = {status.value for status in HTTPStatus}
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429)  # and all of 500 and more
_BUSY = (429, 503)
_GONE = (404, 410)
_READ_BYTES = 1 << 18
_MEMORY_BYTES = 1 << 20  # of a body; the rest of a larger one goes to an unnamed file
_REST_BYTES = 1 << 16  # of an answer that is not wanted: read to its end to keep the connection


class Body(NamedTuple):
    """A body as it is to be stored, from its beginning to the file's position, and its type."""

    file: tempfile.SpooledTemporaryFile
    content_type: str


class Gone(Refused):
    """404 or 410: the host does not have it."""


class Exchange:
    """The requests of a run: one session, and the state of every host. An async context."""

    def __init__(self, network: dict, max_bytes: int, gzipped: bool):
        self._network = network
        self._timeout_s = network["timeout_s"]
        self._private = network["private_addresses"]
        self._max_bytes = max_bytes
        self._gzipped = gzipped
        self._hosts: dict[str, Host] = {}
        self._headers = {
            "User-Agent": user_agent(network["contact"]),
            "Accept": "*/*",
            "Accept-Encoding": "gzip" if gzipped else "identity",
        }

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._network["connections"],
            resolver=CheckedResolver(self._private),
            ttl_dns_cache=60,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            timeout=aiohttp.ClientTimeout(total=None),  # kept here: see fetch
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def host_of(self, address: str) -> Host:
        """The host of an address. Raises Refused for one that is not to be asked."""
        return self._host(checked_url(address, self._private))

    def _host(self, url: URL) -> Host:
        name = f"{url.host}:{url.port}"
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._network)
        return self._hosts[name]

    async def fetch(self, address: str, folder: Path) -> Body:
        """The body that an address gives, to be closed; ``folder`` has room for a large one.

        Raises Refused (Gone for 404 and 410) where asking again would be no use, Unreachable where
        it may be, and OSError where the disk fails.
        """
        url = checked_url(address, self._private)
        visited = [url]
        while True:
            host = self._host(url)
            async with host.turn() as started:
                try:
                    body = await self._ask(host, started, url, folder)
                except Unreachable as error:
                    host.failed(started, str(error))
                    raise
                except Refused:
                    host.answered()
                    raise
                host.answered()
            if isinstance(body, Body):
                return body
            url = next_url(url, body, visited, self._private)
            visited.append(url)

    async def _ask(self, host: Host, started: float, url: URL, folder: Path) -> Body | str:
        """One request: the body, or where it redirects to."""
        answered = False
        try:
            # One clock for all: the head has to come within timeout_s, and then the body has to
            # go on at a least speed. Trickled heads and bodies run out of it like silence does.
            async with asyncio.timeout(self._timeout_s) as clock:
                async with self._session.get(
                    url, headers=self._headers, allow_redirects=False, proxy=proxy_of(url)
                ) as response:
                    answered = True
                    if response.status == 200:
                        body = await self._receive(response, folder, clock)
                        host.was_good()
                        return body
                    await _read_rest(response, self._timeout_s / 10)
                    return self._judge(host, started, response)
        except _NETWORK_ERRORS as error:
            raise Unreachable(_words(error, answered)) from None

    async def _receive(
        self, response: aiohttp.ClientResponse, folder: Path, clock: asyncio.Timeout
    ) -> Body:
        if (response.content_length or 0) > self._max_bytes:
            raise Refused(f"larger than {self._max_bytes} bytes")
        start, received = time.monotonic(), 0
        # In memory as far as possible: a disk that is busy would hold up all connections.
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.SpooledTemporaryFile(_MEMORY_BYTES, dir=folder))
            encoding = response.headers.get("Content-Encoding", "")
            writer = body_writer(file, encoding, self._gzipped, self._max_bytes)
            async for data in response.content.iter_any():
                received += len(data)
                writer.write(data)
                # asyncio's clock is the monotonic one.
                least = start + received / LEAST_BYTES_PER_S
                clock.reschedule(min(least, time.monotonic()) + self._timeout_s)
            writer.close()
            stack.pop_all()  # the body stays open
        return Body(file, response.headers.get("Content-Type", ""))

    def _judge(self, host: Host, started: float, response: aiohttp.ClientResponse) -> str:
        """Where an answer other than 200 redirects to; Refused or Unreachable for all the rest."""
        status = response.status
        # In the standard's words: the server's own may hold anything.
        words = HTTPStatus(status).phrase if status in _STATUSES else "(no known status)"
        said = f"{status} {words}"
        if status in _REDIRECTS and "Location" in response.headers:
            return response.headers["Location"]
        if status in _BUSY:
            host.is_busy(started, retry_after(response.headers.get("Retry-After")))
        if status in _TEMPORARY or status >= 500:
            raise Unreachable(said)
        raise (Gone if status in _GONE else Refused)(said)


# Of the disk there are other OSErrors, which are the caller's.
_NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError)


def user_agent(contact: str) -> str:
    """Who asks: the program, and whom to write to. Raises InputError for a contact on two lines."""
    if not (contact.isascii() and contact.isprintable()):
        raise InputError(f"fetch.contact: {contact!r} must be one line of plain letters.")
    return f"hpaloc/1.0 (research workflow{'; ' + contact if contact else ''})"


async def _read_rest(response: aiohttp.ClientResponse, timeout_s: float) -> None:
    """Reads an answer that is not wanted, if that is soon done: its connection is used again."""
    read = 0
    with contextlib.suppress(*_NETWORK_ERRORS):
        async with asyncio.timeout(timeout_s):
            async for data in response.content.iter_any():
                read += len(data)
                if read > _REST_BYTES:
                    break
            else:
                return
    response.close()


def _words(error: Exception, answered: bool) -> str:
    """What went wrong, without addresses, times or names of classes."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "no TLS connection"
    if isinstance(error, TimeoutError):
        return "too slow" if answered else "no answer in time"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return "the proxy refuses the connection"
    if isinstance(error, aiohttp.ClientConnectorError):
        return (
            "connection refused"
            if isinstance(error.os_error, ConnectionRefusedError)
            else "no connection"
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return "truncated"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "connection closed without an answer"
    if isinstance(error, ConnectionError | aiohttp.ClientOSError):
        return "connection reset"
    if isinstance(error, aiohttp.ClientResponseError):
        return "no HTTP answer"
    return "connection failed"

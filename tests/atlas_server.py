"""An atlas on this machine: a small HTTP server that serves real bytes and misbehaves on purpose.

``AtlasServer`` runs in a thread; what it answers is a function of the path, and a schedule of
faults per path comes before it.
"""

import asyncio
import gzip
import hashlib
import itertools
import re
import socket
import ssl
import struct
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import simplejpeg


class Answer(NamedTuple):
    """One answer, and what is wrong with it.

    ``declared`` is the Content-Length (None: the true one; -1: none at all, the end of the
    connection ends the body), ``sent`` how many bytes of the body are sent (None: all), ``end``
    what follows: "keep", "close", "reset" (RST) or "hang". ``piece`` and ``pause_s`` trickle the
    body, ``head_pause_s`` each byte of the head; ``silent`` answers never; ``raw`` is sent instead
    of all that, and the connection closed; ``endless`` is sent again and again.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "image/jpeg"
    headers: tuple[tuple[str, str], ...] = ()
    declared: int | None = None
    sent: int | None = None
    end: str = "keep"
    piece: int = 0
    pause_s: float = 0.0
    head_pause_s: float = 0.0
    silent: bool = False
    raw: bytes | None = None
    endless: bytes = b""


NOT_FOUND = Answer(404, b"<!DOCTYPE html><title>not found</title>", "text/html")


class Asked(NamedTuple):
    """One request: seconds of the monotonic clock, path with query, and headers in lower case."""

    time: float
    path: str
    headers: dict[str, str]


class AtlasServer:
    """Serves on a loopback address while the ``with`` block runs.

    ``answers(path)`` gives the answer (bytes are a JPG file, None is 404). ``faults[path]`` is a
    list of answers for the first requests of a path, None in it for the normal answer; ``every``
    is a function ``(path, number of the request to it)`` to an Answer or None for the same.
    """

    def __init__(
        self,
        answers: Callable[[str], "Answer | bytes | None"],
        latency_s: float = 0.0,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ):
        self.answers, self.latency_s = answers, latency_s
        self.faults: dict[str, list[Answer | None]] = {}
        self.every: Callable[[str, int], Answer | None] = lambda path, number: None
        self.asked: list[Asked] = []
        self.connections = 0
        self._seen = defaultdict(itertools.count)
        # Requests being answered at a time: the most, and the integral over time.
        self.most_busy = self.busy = 0
        self._busy_s, self._changed, self._first, self._last = 0.0, 0.0, None, 0.0
        self._host, self._port, self._tls = host, port, tls

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def url(self, path: str = "") -> str:
        return f"http{'s' if self._tls else ''}://{self._host}:{self._port}{path}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def counts(self) -> Counter[str]:
        """Requests of each path."""
        return Counter(asked.path for asked in self.asked)

    def mean_busy(self) -> float:
        """Connections with a request being answered, mean from the first request to the last end."""
        return self._busy_s / (self._last - self._first)

    def seconds(self) -> float:
        return self._last - self._first

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(
            self._connected, self._host, self._port, backlog=256, ssl=self._tls
        )
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self._count(1)
                try:
                    if not await self._answer(head, writer):
                        break
                finally:
                    self._count(-1)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server is to end
        finally:
            writer.close()

    def _count(self, change: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        else:
            self._busy_s += self.busy * (now - self._changed)
        self.busy += change
        self.most_busy = max(self.most_busy, self.busy)
        self._changed = self._last = now

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """One answer; whether the connection goes on."""
        first, *lines = head.decode("latin-1").split("\r\n")
        path = first.split(" ")[1]
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        number = next(self._seen[path])
        self.asked.append(Asked(time.monotonic(), path, headers))
        answer = self._chosen(path, number)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if answer.silent:
            await asyncio.sleep(3600)
        while answer.endless:
            writer.write(answer.endless)
            await writer.drain()
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        head, body = self._head(answer), answer.body[: answer.sent]
        if answer.head_pause_s:
            for k in range(len(head)):
                writer.write(head[k : k + 1])
                await writer.drain()
                await asyncio.sleep(answer.head_pause_s)
        elif answer.piece:
            writer.write(head)
        else:
            writer.write(head + body)
            body = b""
        piece = answer.piece or max(1, len(body))
        for k in range(0, len(body), piece):
            writer.write(body[k : k + piece])
            await writer.drain()
            await asyncio.sleep(answer.pause_s)
        await writer.drain()
        if answer.end == "hang":
            await asyncio.sleep(3600)
        if answer.end == "reset":
            linger = struct.pack("ii", 1, 0)
            # Let the client take what came before: an RST throws away what is not read yet.
            await asyncio.sleep(0.05)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return answer.end == "keep" and answer.declared != -1

    def _chosen(self, path: str, number: int) -> Answer:
        faults = self.faults.get(path, [])
        answer = faults[number] if number < len(faults) else None
        answer = answer or self.every(path, number) or self.answers(path)
        if answer is None:
            return NOT_FOUND
        return Answer(body=answer) if isinstance(answer, bytes) else answer

    @staticmethod
    def _head(answer: Answer) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} Status", f"Content-Type: {answer.content_type}"]
        if answer.declared != -1:
            length = len(answer.body) if answer.declared is None else answer.declared
            lines.append(f"Content-Length: {length}")
        if answer.end != "keep" or answer.declared == -1:
            lines.append("Connection: close")
        lines += [f"{name}: {value}" for name, value in answer.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_IMAGE = re.compile(
    r"(?:/images)?/(?P<antibody>\d+)/(?P<rest>\w+_\w+_\d+(?:_cr\w+)?)"
    r"_(?P<colour>red|green|blue|yellow)\.jpg"
)


def atlas_answers(
    entries: Path | None = None,
    table: Path | None = None,
    image: Callable[[str, str], bytes | None] | None = None,
) -> Callable[[str], Answer | None]:
    """What the atlas answers: ``/<gene>.xml`` from a folder of .xml or .xml.gz files,
    ``/download/subcellular_location.tsv`` and ``.tsv.zip`` from a table, and images under
    ``/images/<antibody>/`` and ``/<antibody>/`` from ``image(image_id, colour)``."""

    def answer(path: str) -> Answer | None:
        match = _IMAGE.fullmatch(path)
        if match and image:
            body = image(f"{match['antibody']}_{match['rest']}", match["colour"])
            return None if body is None else Answer(body=body)
        name = path.rpartition("/")[2]
        if table and name in ("subcellular_location.tsv", "subcellular_location.tsv.zip"):
            return _table_answer(table, name)
        if entries and re.fullmatch(r"\w+\.xml", name):
            if (entries / name).is_file():
                return Answer(body=(entries / name).read_bytes(), content_type="text/xml")
            if (entries / f"{name}.gz").is_file():
                body = gzip.decompress((entries / f"{name}.gz").read_bytes())
                return Answer(body=body, content_type="text/xml")
        return None

    return answer


def _table_answer(table: Path, name: str) -> Answer:
    text = table.read_bytes()
    if not name.endswith(".zip"):
        return Answer(body=text, content_type="text/tab-separated-values")
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("subcellular_location.tsv"), text)
    return Answer(body=packed.getvalue(), content_type="application/zip")


def flat_images(size: int = 64) -> Callable[[str, str], bytes]:
    """Small JPG files of one grey value each, that tell image and colour by it: quick to make."""

    def image(image_id: str, colour: str) -> bytes:
        values = hashlib.sha256(f"{image_id} {colour}".encode()).digest()[:3]
        picture = np.full((size, size, 3), list(values), np.uint8)
        return simplejpeg.encode_jpeg(picture, 80)

    return image

"""An atlas on this machine: a small HTTP server that serves real bytes and misbehaves on purpose.

``AtlasServer`` runs in a thread; what it answers is a function of the path, and a schedule of
faults per path comes before it. ``python tests/atlas_server.py`` serves a folder of gene entries,
a table of genes and images (simulated, or of a folder) until it is ended.
"""

import argparse
import asyncio
import gzip
import hashlib
import itertools
import re
import signal
import socket
import struct
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))


class Answer(NamedTuple):
    """One answer, and what is wrong with it.

    ``declared`` is the Content-Length (None: the true one; -1: none at all, the end of the
    connection ends the body), ``sent`` how many bytes of the body are sent (None: all), ``end``
    what follows: "keep", "close", "reset" (RST) or "hang". ``piece`` and ``pause_s`` trickle the
    body, ``head_pause_s`` each byte of the head; ``silent`` answers never.
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
        self._host, self._port = host, port

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
        return f"http://{self._host}:{self._port}{path}"

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
        server = await asyncio.start_server(self._connected, self._host, self._port, backlog=256)
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


def images_of_folder(folder: Path) -> Callable[[str, str], bytes | None]:
    """Images as ``<folder>/<antibody>_…_<n>/<plate>_<well>_<n>_<colour>.jpg`` (as in the real data
    for checks) or ``<folder>/<antibody>/…``."""

    def image(image_id: str, colour: str) -> bytes | None:
        antibody, _, rest = image_id.partition("_")
        for place in (folder / image_id, folder / antibody):
            path = place / f"{rest}_{colour}.jpg"
            if path.is_file():
                return path.read_bytes()
        return None

    return image


def flat_images(size: int = 64) -> Callable[[str, str], bytes]:
    """Small JPG files of one grey value each, that tell image and colour by it: quick to make."""
    import numpy as np
    import simplejpeg

    def image(image_id: str, colour: str) -> bytes:
        values = hashlib.sha256(f"{image_id} {colour}".encode()).digest()[:3]
        picture = np.full((size, size, 3), list(values), np.uint8)
        return simplejpeg.encode_jpeg(picture, 80)

    return image


def simulated_images(
    labels: dict[str, list[int]], size: int = 512, seed: int = 1
) -> Callable[[str, str], bytes | None]:
    """Simulated cells that show the given labels, coded as the atlas does; other ids are 404.

    ``labels`` holds the class numbers of each image id. Images of an antibody share what is of
    the antibody; every image is the same however often and in whatever order it is asked for.
    """
    from hpaloc.classes import CHANNELS
    from hpaloc.simulate.delivery import encode

    guard = threading.Lock()

    @lru_cache(maxsize=64)
    def files(image_id: str) -> dict[str, bytes]:
        picture = _simulated(image_id, labels[image_id], size, seed)
        return {
            channel: encode(picture[..., plane].copy(), channel, "hpa_v18")
            for plane, channel in enumerate(CHANNELS)
        }

    def image(image_id: str, colour: str) -> bytes | None:
        if image_id not in labels:
            return None
        with guard:
            return files(image_id)[colour]

    return image


def _simulated(image_id: str, labels: list[int], size: int, seed: int):
    """A picture uint8 size × size × 4: as hpaloc.simulate.render, with labels that are given."""
    import numpy as np

    from hpaloc.simulate.cytoplasm import endoplasmic_reticulum
    from hpaloc.simulate.cytoskeleton import microtubules
    from hpaloc.simulate.nuclear import dna
    from hpaloc.simulate.optics import CAMERAS, take_picture
    from hpaloc.simulate.patterns import pattern
    from hpaloc.simulate.render import Record, scene_of
    from hpaloc.simulate.streams import ANTIBODY, CAMERA, MARKERS, PATTERN, stream

    number = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big")
    antibody = image_id.partition("_")[0]
    known = Record(number, int(antibody), antibody, "", "U-2 OS", labels)
    settings = {
        "seed": seed, "delivery": "hpa_v18", "cells": [5, 12], "field_um": 100.0 * size / 512,
        "size": size,
    }  # fmt: skip
    scene = scene_of(settings, known)
    rng = stream(seed, "hpa_v18", MARKERS, number)
    signals = {
        "red": microtubules(scene, rng),
        "blue": dna(scene, rng),
        "yellow": endoplasmic_reticulum(scene, rng),
    }
    rng = stream(seed, "hpa_v18", ANTIBODY, known.antibody_number, 2)
    strengths = rng.uniform(0.7, 1.0, len(labels))
    green = rng.uniform(0.015, 0.08) * scene.inside
    for label, strength in zip(labels, strengths, strict=True):
        rng = stream(seed, "hpa_v18", PATTERN, number, label)
        green = green + np.float32(strength) * pattern(label, scene, signals, rng)
    signals["green"] = green * scene.brightness
    rng = stream(seed, "hpa_v18", CAMERA, number)
    planes = [
        take_picture(
            signals[channel].astype(np.float32, copy=False), scene.px, CAMERAS["hpa_v18"], rng
        )
        for channel in ("red", "green", "blue", "yellow")
    ]
    return np.stack(planes, axis=2)


def labels_of_index(index: Path) -> dict[str, list[int]]:
    """Labels of the images of an atlas index (Parquet), as index_hpa makes it of entries."""
    import pandas as pd

    frame = pd.read_parquet(index)
    return {
        image_id: [int(label) for label in labels]
        for image_id, labels in zip(frame["image_id"], frame["labels"], strict=True)
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=Path, help="folder of gene entries (.xml, .xml.gz)")
    parser.add_argument("--table", type=Path, help="subcellular_location.tsv")
    parser.add_argument("--images", type=Path, help="folder of images: instead of simulated ones")
    parser.add_argument("--index", type=Path, help="atlas index: its images are simulated")
    parser.add_argument("--size", type=int, default=512, help="pixels of simulated images")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--address-file", type=Path, help="out: the server's address")
    parser.add_argument("--log", type=Path, help="out, at the end: the paths asked for, in order")
    arguments = parser.parse_args(argv)

    image = flat_images()
    if arguments.index:
        image = simulated_images(labels_of_index(arguments.index), arguments.size)
    if arguments.images:
        image = images_of_folder(arguments.images)
    answers = atlas_answers(arguments.entries, arguments.table, image)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with AtlasServer(answers, arguments.latency, arguments.port) as server:
        if arguments.address_file:
            aside = arguments.address_file.with_suffix(".part")
            aside.write_text(server.url())
            aside.replace(arguments.address_file)
        print(server.url(), flush=True)
        done.wait()
    if arguments.log:
        arguments.log.write_text("".join(f"{asked.path}\n" for asked in server.asked))


if __name__ == "__main__":
    main()

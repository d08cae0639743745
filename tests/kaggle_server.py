"""A server that answers as Kaggle and its storage do, and misbehaves when it is told to.

Kaggle's client asks the API for a file and is sent on to a signed address of the storage. A test
points the client here with ``client_of``. By hand: ``python tests/kaggle_server.py FOLDER --port
80`` and KAGGLE_API_ENVIRONMENT=LOCALHOST for the client.
"""

import argparse
import base64
import functools
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

TOKEN = "KGAT_0123456789abcdefdeadbeef"
SIGNATURE = "5ecre7516na7ure"


class KaggleServer(ThreadingHTTPServer):
    """``files`` are served by name, ``<competition>.zip`` as the archive of everything.

    Each request to the storage takes the next of ``faults``: "reset" (closes amid the body),
    "corrupt" (one byte is another), "page" (an HTML page with 200), "busy" (503, Retry-After 0),
    "silent" (no answer for ``silence_s``), "trickle" (a byte now and then, and "trickled head" the
    same), "ignores range", "error on resume" (a 503 page where a range was asked for), "". No body
    ends before ``may_end`` is set. ``status`` of the API, where it is not 200, is answered to every
    request, and ``leads_to`` is where it sends on to, in place of the storage (``/round`` and
    ``/on/`` lead on for ever). ``asked`` has the
    method, path, range and authorization of all requests.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.files = files
        self.faults: list[str] = []
        self.status = 200
        self.leads_to: str | None = None
        self.json = True
        self.retry_after: str | None = None
        self.token: str | None = TOKEN
        self.md5 = True
        self.pace_s = 0.0
        self.silence_s = 3.0
        self.may_end = threading.Event()
        self.may_end.set()
        self.asked: list[tuple[str, str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def storage_requests(self) -> list[str | None]:
        """The Range header of each request to the storage."""
        return [asked[2] for asked in self.asked if asked[1].startswith("/storage/")]

    def handle_error(self, *_):  # a client that goes away is no fault of the server
        pass


@functools.lru_cache(maxsize=4)
def _sums(data: bytes) -> tuple[str, str]:
    return hashlib.sha1(data).hexdigest(), base64.b64encode(hashlib.md5(data).digest()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KaggleServer

    def log_message(self, *_):
        pass

    def do_POST(self):
        self._note()
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.rsplit("/", 1)[-1]
        name = request.get("fileName")
        if method == "DownloadDataFiles":
            name = f"{request['competitionName']}.zip"
        token = self.server.token
        if token is not None and self.headers["Authorization"] != f"Bearer {token}":
            self._refuse(401, "Unauthenticated")
        elif self.server.status != 200:
            self._refuse(self.server.status, "You must accept this competition's rules")
        elif name not in self.server.files:
            self._refuse(404, "Not found")
        else:
            # Another name of this host: a client must keep its token to itself.
            self.send_response(302)
            storage = f"http://localhost:{self.server.server_port}/storage/{name}"
            leads_to = self.server.leads_to or f"{storage}?X-Sig={SIGNATURE}"
            self.send_header("Location", leads_to)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_GET(self):
        self._note()
        if self.path == "/round" or self.path.startswith("/on/"):
            self.send_response(302)
            self.send_header("Location", self.path if self.path == "/round" else f"{self.path}1")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        address = urlsplit(self.path)
        if parse_qs(address.query) != {"X-Sig": [SIGNATURE]}:
            return self._refuse(403, "bad signature")
        data = self.server.files[address.path.removeprefix("/storage/")]
        fault = self.server.faults.pop(0) if self.server.faults else ""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if fault == "silent":
            time.sleep(self.server.silence_s)
            self.close_connection = True
            return None
        if fault in ("trickle", "trickled head"):
            return self._trickle(data if fault == "trickle" else None)
        if fault == "busy" or (fault == "error on resume" and wanted):
            return self._page(503, b"<html>busy</html>", {"Retry-After": "0"})
        if fault == "page":
            return self._page(200, b"<html>Sign in to Kaggle</html>")
        start = int(wanted[1]) if wanted and fault != "ignores range" else 0
        body = data[start:]
        self.send_response(206 if wanted and fault != "ignores range" else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        tag, md5 = _sums(data)
        self.send_header("ETag", f'"{tag}"')
        if self.server.md5:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={md5}")
        self.end_headers()
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "reset":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        step = max(1, len(body) // 50) if self.server.pace_s else max(1, len(body))
        for at in range(0, len(body), step):
            if at + step >= len(body):
                self.server.may_end.wait(30)
            self.wfile.write(body[at : at + step])
            time.sleep(self.server.pace_s)
        return None

    def _trickle(self, data):
        """A byte every 20 ms, of the body or, without one, of the head, until the client is gone."""
        self.close_connection = True
        if data is None:
            data = b"HTTP/1.1 200 OK\r\nX-Long: " + bytes([65]) * 1000
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
        for at in range(len(data)):
            self.wfile.write(data[at : at + 1])
            time.sleep(0.02)

    def _note(self):
        headers = self.headers
        self.server.asked.append(
            (self.command, self.path, headers["Range"], headers["Authorization"])
        )

    def _refuse(self, status, message):
        body = json.dumps({"code": status, "message": message}).encode()
        body = body if self.server.json else b"<html>"
        headers = {"Content-Type": "application/json"}
        if self.server.retry_after:
            headers["Retry-After"] = self.server.retry_after
        self._page(status, body, headers)

    def _page(self, status, body, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Type": "text/html"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(server):
    """Serves in a thread while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def client_of(url: str) -> str:
    """Python code that lets Kaggle's client, in its own process, ask this server."""
    return (
        "from kagglesdk import kaggle_env;"
        f"kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = {url!r};"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parsed = parser.parse_args()
    contents = {path.name: path.read_bytes() for path in parsed.folder.iterdir() if path.is_file()}
    by_hand = KaggleServer(contents, parsed.port)
    by_hand.token = None
    print(by_hand.url, flush=True)
    by_hand.serve_forever()

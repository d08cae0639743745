"""A server that answers as the hub of pretrained weights does, and misbehaves when told to.

By hand: ``python tests/hub_server.py FOLDER --port 8080`` serves ``FOLDER/<owner>/<name>/<file>``
at any commit; HF_ENDPOINT=http://127.0.0.1:8080 sends the hub's client there.
"""

import argparse
import functools
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

TOKEN = "hf_0123456789abcdefdeadbeef"
SIGNATURE = "5ecre7516na7ure"


class HubServer(ThreadingHTTPServer):
    """``files`` are served by ``<owner>/<name>/<file>``, at each of ``commits``.

    Each request for a body takes the next of ``faults``: "reset" (closes amid the body),
    "corrupt" (one byte is another), "busy" (503), "trickle" (a byte now and then), "". ``status``,
    where it is not 200, is answered to everything, ``leads_to`` is where it sends on to in place of
    its storage, ``silent`` parts of paths are never answered. A body takes ``pace_s`` for each of
    50 parts. ``asked`` has the method, path, range and authorization of requests.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], commits: list[str] | None = None, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.files = files
        self.commits = commits
        self.faults: list[str] = []
        self.status = 200
        self.leads_to: str | None = None
        self.silent: str | None = None
        self.pace_s = 0.0
        self.asked: list[tuple[str, str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self) -> list[str | None]:
        """The Range header of each request for a body."""
        return [asked[2] for asked in self.asked if asked[1].startswith("/storage/")]

    def handle_error(self, *_):  # a client that goes away is no fault of the server
        pass


@functools.lru_cache(maxsize=4)
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        headers = self.headers
        self.server.asked.append(
            (self.command, self.path, headers["Range"], headers["Authorization"])
        )
        path = urlsplit(self.path).path
        if self.server.silent and self.server.silent in path:
            time.sleep(10)
        if self.server.status != 200:
            return self._answer(self.server.status, b"{}", {"X-Error-Message": "no"})
        if path.startswith("/storage/"):
            return self._body(self.server.files[path.removeprefix("/storage/")])
        if history := re.fullmatch(r"/api/models/(.+)/commits/main", path):
            return self._history(history[1])
        wanted = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path)
        name = f"{wanted[1]}/{wanted[3]}" if wanted else ""
        if name not in self.server.files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.server.commits is not None and wanted[2] not in self.server.commits:
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        data = self.server.files[name]
        # Another name of this host: a client must keep its token to itself.
        storage = f"http://localhost:{self.server.server_port}/storage/{name}?sig={SIGNATURE}"
        about = {
            "X-Repo-Commit": wanted[2],
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{_sha256(data)}"',
            "Location": self.server.leads_to or storage,
        }
        return self._answer(302, b"", about)

    def _history(self, repository):
        commits = [
            {"id": commit, "title": "Add model", "message": "", "authors": []}
            | {"date": "2023-04-05T18:00:00.000Z"}
            for commit in self.server.commits or []
        ]
        self._answer(200, json.dumps(commits).encode(), {"Content-Type": "application/json"})

    def _body(self, data):
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "busy":
            return self._answer(503, b"busy")
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(wanted[1]) if wanted else 0
        body = data[start:]
        if fault == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if fault == "reset":
            body = body[: len(body) // 2]
            self.close_connection = True
        step = 1 if fault == "trickle" else len(body) // (50 if self.server.pace_s else 1) + 1
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(0.02 if fault == "trickle" else self.server.pace_s)
        return None

    def _answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parsed = parser.parse_args()
    contents = {
        path.relative_to(parsed.folder).as_posix(): path.read_bytes()
        for path in parsed.folder.rglob("*")
        if path.is_file()
    }
    by_hand = HubServer(contents, port=parsed.port)
    print(by_hand.url, flush=True)
    by_hand.serve_forever()

"""A model hub on 127.0.0.1 with the few endpoints that a download needs, which fails when a test wants it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "IndexTeam/Tiny"


@dataclass
class FakeHub:
    """A hub that serves one directory as MODEL."""

    directory: Path
    url: str = ""
    refusal: tuple[int, str] | None = None
    """The status and X-Error-Code with which every request is refused, if it is set."""
    cuts: dict[str, int] = field(default_factory=dict)
    """By file: how many of its next transfers break off half way."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, file, Range) of every request for a file."""

    @property
    def fetched(self) -> set[str]:
        """The files whose content was requested."""
        return {file for method, file, _ in self.requests if method == "GET"}


@contextmanager
def serve_hub(directory: Path) -> Iterator[FakeHub]:
    """Runs a hub for the directory's files."""
    hub = FakeHub(directory)

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: FakeHub

    def do_HEAD(self) -> None:
        """Answers without a body; the base class needs this name."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answers; the base class needs this name."""
        path = unquote(urlsplit(self.path).path)
        if self.served.refusal:
            self._refuse(*self.served.refusal)
        elif path in (
            f"/api/models/{MODEL}",
            f"/api/models/{MODEL}/revision/main",
            f"/api/models/{MODEL}/revision/{COMMIT}",
        ):
            siblings = [{"rfilename": file.name} for file in self._files()]
            self._send_json({"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/models/{MODEL}/tree/{COMMIT}"):
            files = self._files()
            self._send_json(
                [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _etag(f)} for f in files]
            )
        elif path.startswith(f"/api/models/{MODEL}/"):
            self._refuse(404, "RevisionNotFound")
        elif match := re.fullmatch(rf"/{MODEL}/resolve/(?:main|{COMMIT})/([\w.-]+)", path):
            self._send_file(match[1])
        else:
            self._refuse(404, "RepoNotFound")

    def _files(self) -> list[Path]:
        return sorted(file for file in self.served.directory.iterdir() if file.is_file())

    def _send_file(self, name: str) -> None:
        self.served.requests.append((self.command, name, self.headers.get("Range", "")))
        file = self.served.directory / name
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{_etag(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self._send_body(name, content[start:])

    def _send_body(self, name: str, content: bytes) -> None:
        if self.served.cuts.get(name, 0) > 0:
            self.served.cuts[name] -= 1
            self.close_connection = True
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Logs nothing."""


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()

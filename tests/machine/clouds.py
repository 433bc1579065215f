"""Google Cloud Storage and Azure Blob Storage, as far as an upload in parts goes.

What they are asked and how they answer is Google's XML API (``InitiateMultipartUpload`` and so on) and
Azure's ``Put Block``, ``Put Block List``, ``Put Blob`` and ``Get Blob Properties``.
"""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGUN = b"InitiateMultipartUploadResult"
DATE = "Sat, 31 Jan 2026 23:59:59 GMT"


class Clouds:
    """What the stores hold, by the path of their objects."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[str, bytes]] = {}
        """Of uploads that are not complete: by their path, and by the number or id of the part."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    clouds: Clouds

    def do_HEAD(self) -> None:
        content = self.clouds.objects.get(self._path)
        if content is None:
            self._answer(404)
            return
        self.send_response(200)
        self._describe(content)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_POST(self) -> None:
        """Google's: begin an upload in parts, or put them together."""
        body = self._body()
        if "uploads" in self._asked:
            self.clouds.parts[self._path] = {}
            self._answer(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
            return
        numbers = re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)
        self._join([number.decode() for number in numbers])
        self._answer(200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")

    def do_PUT(self) -> None:
        body = self._body()
        if "partNumber" in self._asked:
            self.clouds.parts[self._path][self._asked["partNumber"][0]] = body
        elif self._asked.get("comp") == ["block"]:
            self.clouds.parts.setdefault(self._path, {})[self._asked["blockid"][0]] = body
        elif self._asked.get("comp") == ["blocklist"]:
            self._join([name.decode() for name in re.findall(rb"<\w+>([^<>]+)</\w+>", body)])
        else:
            self.clouds.objects[self._path] = body
        self._answer(200 if "partNumber" in self._asked else 201)

    def do_DELETE(self) -> None:
        """Google's: forget the parts."""
        self.clouds.parts.pop(self._path, None)
        self._answer(204)

    def _join(self, names: list[str]) -> None:
        parts = self.clouds.parts.pop(self._path)
        self.clouds.objects[self._path] = b"".join(parts[name] for name in names)

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    @property
    def _asked(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self._describe(body)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _describe(self, content: bytes) -> None:
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Last-Modified", DATE)
        self.send_header("Date", DATE)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def clouds() -> Iterator[Clouds]:
    """Let both stores listen until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    found = Clouds(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass.clouds = found  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

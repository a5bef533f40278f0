"""A GCS bucket over its JSON protocol, with the one thing that matters here: generation preconditions.

gcp-storage-emulator (2026.7) answers no ``ifGenerationMatch`` and sends no ``x-goog-generation``, so a
compare-and-swap can't be tried on it: tensorstore refuses its answers ("Malformed StorageGeneration"). This one serves
the requests that tensorstore makes, as https://cloud.google.com/storage/docs/json_api/v1/objects describes them.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.bases.server import Faults

PAGE = 500


class Bucket:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.generation = 1_700_000_000_000_000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # header and body in one packet, else each answer waits for a delayed acknowledgement
    disable_nagle_algorithm = True
    server: GcsServer

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _query(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}

    def _precondition(self, query: dict[str, str], generation: int) -> int | None:
        """Return the status of a failed precondition; a missing object is of generation 0."""
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            return 412
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            return 304
        return None

    def do_GET(self) -> None:
        path, query = self._query()
        bucket, faults = self.server.bucket, self.server.faults
        if faults.meets(unquote(path)):
            self.server.stopped.wait(faults.delay)
            if faults.status:
                self._answer(faults.status)
                return
        if path.endswith("/o"):
            self._list(query)
            return
        name = unquote(path.rpartition("/o/")[2])
        with bucket.lock:
            generation, data = bucket.objects.get(name, (0, b""))
        status = self._precondition(query, generation)
        if status is not None:
            self._answer(status)
        elif not generation:
            self._answer(404)
        elif query.get("alt") == "json":
            self._answer(
                200, json.dumps({"name": name, "size": str(len(data)), "generation": str(generation)}).encode()
            )
        else:
            self._media(data, generation)

    def _media(self, data: bytes, generation: int) -> None:
        headers = {"x_goog_generation": str(generation), "Content_Type": "application/octet-stream"}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            self._answer(200, data, **headers)
            return
        if found[1]:
            start, stop = int(found[1]), min(int(found[2]) + 1, len(data)) if found[2] else len(data)
        else:
            start, stop = max(len(data) - int(found[2]), 0), len(data)
        if start >= len(data):
            self._answer(416)
            return
        self._answer(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", **headers)

    def _list(self, query: dict[str, str]) -> None:
        bucket = self.server.bucket
        with bucket.lock:
            names = sorted(bucket.objects)
        begin = bisect_left(names, max(query.get("startOffset", ""), query.get("pageToken", "")))
        end = bisect_left(names, query["endOffset"]) if query.get("endOffset") else len(names)
        found = [name for name in names[begin:end] if name.startswith(query.get("prefix", ""))]
        answer: dict[str, object] = {"items": [{"name": name} for name in found[:PAGE]]}
        if len(found) > PAGE:
            answer["nextPageToken"] = found[PAGE]
        self._answer(200, json.dumps(answer).encode())

    def do_POST(self) -> None:
        _, query = self._query()
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bucket, name = self.server.bucket, query["name"]
        with bucket.lock:
            status = self._precondition(query, bucket.objects.get(name, (0, b""))[0])
            if status is None:
                bucket.generation += 1
                generation = bucket.generation
                bucket.objects[name] = generation, data
        if status is not None:
            self._answer(status)
        else:
            self._answer(
                200, json.dumps({"name": name, "size": str(len(data)), "generation": str(generation)}).encode()
            )

    def do_DELETE(self) -> None:
        path, query = self._query()
        bucket, name = self.server.bucket, unquote(path.rpartition("/o/")[2])
        with bucket.lock:
            generation = bucket.objects.get(name, (0, b""))[0]
            status = self._precondition(query, generation)
            if status is None:
                bucket.objects.pop(name, None)
        self._answer(status or (204 if generation else 404))


class GcsServer(ThreadingHTTPServer):
    """Serves one bucket, whatever it is called, on a free port of 127.0.0.1."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bucket = Bucket()
        self.faults = Faults()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put_folder(self, folder: Path, prefix: str = "") -> None:
        """Put a folder's files into the bucket."""
        with self.bucket.lock:
            for file in folder.rglob("*"):
                if file.is_file():
                    self.bucket.generation += 1
                    name = prefix + file.relative_to(folder).as_posix()
                    self.bucket.objects[name] = self.bucket.generation, file.read_bytes()

    def remove(self, prefix: str) -> dict[str, tuple[int, bytes]]:
        """Take the objects out of the bucket whose names begin so, and return them."""
        with self.bucket.lock:
            names = [name for name in self.bucket.objects if name.startswith(prefix)]
            return {name: self.bucket.objects.pop(name) for name in names}

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

"""A web server for a folder, with byte ranges, that can be told to fail, to be slow, to refuse, or to go silent."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faults:
    """What the server does to requests whose path matches a pattern.

    Attributes
    ----------
    status
        Answer with this status instead of the file.
    delay
        Seconds before an answer.
    broken
        Send half of the bytes that were announced, then hang up.
    matching
        Which paths.
    times
        After so many faults the server is well again; None never.
    """

    def __init__(self):
        self.heal()
        self.requests = []

    def heal(self):
        self.status = None
        self.delay = 0.0
        self.broken = False
        self.matching = ""
        self.times = None

    def meets(self, path):
        if not re.search(self.matching, path) or self.times == 0:
            return False
        if not (self.status or self.delay or self.broken):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@contextlib.contextmanager
def serving(folder):
    """The URL of the server, without a slash at its end, and its faults."""
    faults = Faults()
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, body):
            path = self.path.partition("?")[0]
            faults.requests.append(self.path)
            if stop.is_set():  # a connection that was kept open
                self.close_connection = True
                return
            status, broken = None, False
            if faults.meets(path):
                stop.wait(faults.delay)
                status, broken = faults.status, faults.broken
            file = folder / path.lstrip("/")
            if status is None and not file.is_file():
                status = 404
            data = b"" if status else file.read_bytes()
            size = len(data)
            headers = {"Accept-Ranges": "bytes"}
            if path.startswith("/bucket/"):  # as the S3 protocol has it
                headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
            if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                first, last = match.groups()
                start = int(first) if first else max(0, size - int(last))
                end = min(size, int(last) + 1) if last and first else size
                if not status:
                    status = 206
                    data = data[start:end]
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            with contextlib.suppress(ConnectionError):
                self.send_response(status or 200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data[: len(data) // 2] if broken else data)
                if broken:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()

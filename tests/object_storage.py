"""An S3 server of the tests' own (moto's), and a proxy in front of it that fails and stalls as one tells it."""

import http.client
import http.server
import random
import threading
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

REGION = "us-east-1"


@contextmanager
def s3_server() -> Generator[str]:
    """A server that forgets everything when it ends; gives its address, ``http://127.0.0.1:PORT``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pytest.importorskip("moto.server", reason="needs moto[server], an S3 server for tests")
    pytest.importorskip("obstore", reason="needs obstore, of kdcache[cloud]")
    pytest.importorskip("tenacity", reason="needs tenacity, of kdcache[cloud]")
    one = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        one.stop()


def make_bucket(endpoint: str, name: str) -> None:
    """Create a bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()


def environment(endpoint: str) -> dict[str, str]:
    """What obstore reads to reach a server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "kdcache-tests",
        "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-tests",
        "AWS_REGION": REGION,
    }


class Faults:
    """What a proxy does to requests, drawn with a seed; counts what it did.

    Args:
        failing, stalling: Fractions of requests.
        stall_s: Seconds a stalled request is left without an answer.
        seed: Of the draw.
    """

    def __init__(self, *, failing: float = 0.0, stalling: float = 0.0, stall_s: float = 3.0, seed: int = 0) -> None:
        self.failing, self.stalling, self.stall_s = failing, stalling, stall_s
        self.done: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def draw(self) -> str:
        """What happens to one request."""
        with self._lock:
            drawn = self._random.random()
            kind = "pass"
            if drawn < self.failing:
                kind = self._random.choice(["500", "503", "reset", "lost answer", "cut"])
            elif drawn < self.failing + self.stalling:
                kind = "stall"
            self.done[kind] += 1
            return kind


@contextmanager
def fault_proxy(endpoint: str, faults: Faults) -> Generator[str]:
    """A proxy in front of a server; gives its address."""
    host, _, port = endpoint.removeprefix("http://").partition(":")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = faults.draw()
            if kind == "stall":
                time.sleep(faults.stall_s)
                self.close_connection = True
                return
            if kind == "reset":
                self.close_connection = True
                return
            if kind in ("500", "503"):
                self._answer(int(kind), {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            upstream = http.client.HTTPConnection(host, int(port), timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if kind == "lost answer":
                self.close_connection = True
                return
            self._answer(answer.status, dict(answer.getheaders()), data, is_cut=kind == "cut")

        def _answer(self, status: int, headers: dict[str, str], data: bytes, *, is_cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            of_head = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
            self.send_header("Content-Length", of_head if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if is_cut else data)
            self.close_connection = self.close_connection or is_cut

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that gave up on a stalled request is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""S3 over HTTP for tests: moto's server in a process of its own, and a proxy before it that misbehaves when told to."""

from __future__ import annotations

import http.client
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTEST", "a-secret-that-nobody-may-read"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
SLOW_SECONDS = 30.0  # longer than any test's patience; ended with the test

_SERVER = """
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def need() -> None:
    """Skip where the packages are not installed; in CI they must be."""
    missing = [name for name in ("obstore", "moto", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"object storage needs {', '.join(missing)}")


@contextmanager
def s3_server() -> Iterator[int]:
    """Run S3 for a block; its port."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Make a request without a signature, which moto takes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        connection.request(method, path, body, {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass
class Fault:
    """What happens to requests of a method and a path: ``kind`` is status · slow · cut · corrupt."""

    kind: str
    method: str = ""
    path: str = ""
    status: int = 503
    times: int = 1_000_000
    met: int = 0

    def meets(self, method: str, path: str) -> bool:
        return self.met < self.times and self.method in ("", method) and self.path in path


@dataclass
class FaultyProxy:
    """Forwards to a port, but for the requests that a fault meets. ``seen``: (method, path) of all requests."""

    upstream: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    def add(self, kind: str, method: str = "", path: str = "", *, status: int = 503, times: int = 1_000_000) -> Fault:
        fault = Fault(kind, method, path, status, times)
        self.faults.append(fault)
        return fault

    def count(self, method: str, path: str = "") -> int:
        return sum(method == seen and path in where for seen, where in self.seen)

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.meets(method, path):
                    fault.met += 1
                    return fault
        return None


@contextmanager
def faulty_proxy(upstream: int) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="faulty proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(proxy: FaultyProxy) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault_for(self.command, self.path)
            if fault is not None and fault.kind == "slow":
                proxy.over.wait(SLOW_SECONDS)
                self.close_connection = True
                return
            if fault is not None and fault.kind == "status":
                code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[fault.status]
                self.answer(fault.status, f"<Error><Code>{code}</Code></Error>".encode(), {})
                return
            self.forward(body, fault)

        def forward(self, body: bytes, fault: Fault | None) -> None:
            upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60.0)
            try:
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
            finally:
                upstream.close()
            skipped = ("connection", "transfer-encoding", "server", "date")
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in skipped}
            if fault is not None and fault.kind == "cut":
                self.answer(
                    answer.status, content[: len(content) // 2], {**headers, "Content-Length": str(len(content))}
                )
                self.close_connection = True
                return
            if fault is not None and fault.kind == "corrupt" and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            self.answer(answer.status, content, headers)

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                try:
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    return Handler

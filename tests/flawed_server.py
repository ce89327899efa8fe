"""An OpenAI-compatible server for tests, which may stall, fail, cut its answers off and talk nonsense."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Behaviour = Callable[["Flawed", dict[str, Any], int], None]


class Flawed(BaseHTTPRequestHandler):
    """Answers the n-th request as `behaviour` says; remembers what was asked."""

    behaviour: Behaviour
    asked: list[dict[str, Any]]
    keys: list[str | None]
    at_once: list[int]
    lock: Lock

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.asked.append(body)
            self.keys.append(self.headers.get("Authorization"))
            number = len(self.asked)
            self.at_once[0] += 1
            self.at_once[1] = max(self.at_once)
        try:
            type(self).behaviour(self, body, number)
        finally:
            with self.lock:
                self.at_once[0] -= 1

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, text: Any, finish: str = "stop") -> None:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        self.send(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    def log_message(self, *given: Any) -> None:
        pass


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[tuple[str, type[Flawed]]]:
    """The URL of a server of that behaviour, and its class, which remembers."""
    fields = {
        "asked": [],
        "keys": [],
        "at_once": [0, 0],
        "lock": Lock(),
        "behaviour": staticmethod(behaviour),
    }
    handler = type("Handler", (Flawed,), fields)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cut_off(handler: Flawed) -> None:
    """Promise more than is sent, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def stall(handler: Flawed, seconds: float) -> None:
    time.sleep(seconds)
    handler.close_connection = True

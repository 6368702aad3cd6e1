"""A real HTTP server that answers as endpoints do, and misbehaves in every way that real ones do."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.recipe.models import AskingSection
from serving.teachers.budget import ALONE, Sharing
from serving.teachers.endpoint import OpenAIParams
from serving.teachers.openai import OpenAITeacher, Times

Handler = Callable[["Seen", BaseHTTPRequestHandler], None]


class Seen:
    """One request that came in."""

    def __init__(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.body, self.headers, self.at = body, headers, time.monotonic()
        self.text = body["messages"][-1]["content"]


class Server:
    """Answers the n-th request for a text by the n-th of its handlers, the last one again and again."""

    KEY, KEY_ENV = "sk-very-secret-0123456789", "RAYDISTILL_TEST_KEY"

    def __init__(self) -> None:
        self.script: list[Handler] = [self.good]
        self.seen: list[Seen] = []
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        outer = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                seen = Seen(json.loads(self.rfile.read(int(self.headers["content-length"]))), dict(self.headers))
                with outer.lock:
                    turn = sum(other.text == seen.text for other in outer.seen)
                    outer.seen.append(seen)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    outer.script[min(turn, len(outer.script) - 1)](seen, self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up, as it was meant to
                finally:
                    with outer.lock:
                        outer.now -= 1

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    @staticmethod
    def completion(text: str, tokens: tuple[int, int] = (7, 3), logprobs: Any = None, **choice: Any) -> dict[str, Any]:
        """A chat completion as endpoints write it."""
        answer = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs}
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        return {"choices": [{**answer, **choice}], "usage": usage}

    @staticmethod
    def send(to: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
        """Answer with this status, body and headers."""
        to.send_response(status)
        to.send_header("content-length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(body)

    @staticmethod
    def good(seen: Seen, to: BaseHTTPRequestHandler) -> None:
        """Echo what was asked."""
        Server.send(to, 200, json.dumps(Server.completion(f"echo {seen.text}")).encode())

    @staticmethod
    def status(code: int, body: bytes = b"{}", **headers: str) -> Handler:
        """A handler that answers with this status."""
        return lambda _, to: Server.send(to, code, body, **headers)

    @staticmethod
    def cut(_: Seen, to: BaseHTTPRequestHandler) -> None:
        """End in the middle of the body."""
        Server.send(to, 200, b'{"choices": [{"mess', length="500")
        to.close_connection = True

    @staticmethod
    def hang_up(_: Seen, to: BaseHTTPRequestHandler) -> None:
        """End before a word."""
        to.close_connection = True
        to.connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running endpoint, and the key for it."""
    monkeypatch.setenv(Server.KEY_ENV, Server.KEY)
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    yield running
    running.http.shutdown()
    running.thread.join()
    running.http.server_close()


@pytest.fixture
def ask(server: Server, hand_time: Any) -> Iterator[Callable[..., OpenAITeacher]]:
    """Make a teacher of the server; its sleeps move time by hand unless `times` is given."""
    made: list[OpenAITeacher] = []

    def make(params: Any = None, times: Times | None = None, sharing: Sharing = ALONE, **asking: Any) -> OpenAITeacher:
        given = OpenAIParams(base_url=server.url, **(params or {}))
        section = AskingSection(**{"key_env": Server.KEY_ENV, "concurrency": 1, **asking})
        by_hand = Times(time.monotonic, hand_time.sleep, lambda: 1_000_000.0)
        made.append(OpenAITeacher("some-model", given, section, sharing, times or by_hand))
        return made[-1]

    yield make
    for teacher in made:
        teacher.close()

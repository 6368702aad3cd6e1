"""Clients that ask without a pause, on few instructions each, so that a server is overloaded by its requests and not by
its client: `crowd.py PORT CLIENTS < bodies.json` asks until its input ends, and prints answers by status as JSON.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence


class Client(asyncio.Protocol):
    """One connection that sends the next request when it has read an answer."""

    def __init__(self, requests: Sequence[bytes], seen: Counter[str]) -> None:
        self._requests, self._seen = requests, seen
        self._next, self._read = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count an answer that is whole, and ask again."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        if len(body) >= length:
            self._read = b""
            status = head.split(b" ", 2)[1].decode()
            told_when = status != "429" or b"\r\nretry-after: " in head.lower()
            self._seen[status if told_when else "429 without Retry-After"] += 1
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """Told apart from answers: it is no answer."""
        self._seen["lost"] += 1

    def _ask(self) -> None:
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1


def request(body: object, port: int) -> bytes:
    """A prediction as it goes over the line."""
    content = json.dumps(body).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def ask(port: int, clients: int) -> Counter[str]:
    """Until standard input ends."""
    loop, seen = asyncio.get_running_loop(), Counter[str]()
    bodies = json.loads(sys.stdin.readline())
    requests = [request(body, port) for body in bodies]
    transports = [
        (await loop.create_connection(lambda: Client(requests, seen), "127.0.0.1", port))[0] for _ in range(clients)
    ]
    await loop.run_in_executor(None, sys.stdin.read)
    found = Counter(seen)
    for transport in transports:
        transport.abort()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(int(sys.argv[1]), int(sys.argv[2])))))  # noqa: T201 - what its caller reads

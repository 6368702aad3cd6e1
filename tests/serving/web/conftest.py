"""The HTTP routes over a desk that answers what it is told to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest

from serving.bundle.answer import Answer
from serving.seams.observe import Feedback, Quiet
from serving.students.student import Reads
from serving.web import routes
from serving.web.asked import Asked, Given
from serving.web.auth import Key, Keys, RateLimit


class Desk:
    """Answers what it is told to."""

    reads = Reads(images_max=1, frames_max=2, hears=False)
    megapixels_max = 1.0
    body_bytes_max = 1 << 20

    def __init__(
        self,
        gives: Given | Exception,
        allow_fault_injection: bool = False,
        task: str = "visual_qa",
        keys: Sequence[Key] = (),
    ) -> None:
        self.gives, self.allow_fault_injection, self.task = gives, allow_fault_injection, task
        self.keys, self.limit, self.observer = Keys(keys), RateLimit(None), Quiet()
        self.asked: list[Asked] = []
        self.told: list[Feedback] = []
        self.controlled: list[tuple[str, dict[str, Any]]] = []

    async def answer(self, asked: Asked) -> Given:
        self.asked.append(asked)
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    async def write(self, asked: Asked) -> AsyncGenerator[str | Given, None]:
        given = await self.answer(asked)
        for word in given.answer.text.split(" "):
            yield word
        yield given

    def feedback(self, given: Feedback) -> None:
        self.told.append(given)

    def models(self) -> list[dict[str, Any]]:
        student = {"id": "digits", "version": "3", "arm": "champion", "task": self.task}
        return [student, {"id": "teacher", "version": "abc", "arm": None, "task": self.task}]

    def example(self) -> dict[str, Any]:
        return {"text": "what digit is this ?"}

    async def control(self, action: str, **arguments: Any) -> dict[str, Any]:
        self.controlled.append((action, arguments))
        return {"arms": [], "sequence": 1}


class Web:
    """The routes over a desk, without Ray."""

    seven = Given(Answer("seven", 0.9), "champion", "digits", "3", False, None)
    desk = Desk

    def given(self, answer: Answer, fell_back: bool = False, reason: Any = None) -> Given:
        """An answer of the student's, or of the teacher's."""
        who = ("teacher", "abc") if fell_back else ("digits", "3")
        return Given(answer, "champion", *who, fell_back, reason)

    def send(self, desk: Desk, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask the routes over this desk; an exception in them is a 500, as it is behind a real server."""

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(routes.create(desk), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, **more)

        return asyncio.run(go())

    def post(
        self, desk: Desk, headers: dict[str, str] | None = None, path: str = "/v1/predict", **body: Any
    ) -> httpx.Response:
        """POST with a body of httpx's keywords."""
        return self.send(desk, "POST", path, headers=headers, **body)


@pytest.fixture
def web() -> Web:
    """The routes, and desks to put behind them."""
    return Web()

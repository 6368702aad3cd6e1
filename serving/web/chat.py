"""`/v1/chat/completions` as OpenAI's clients speak it, whole or streamed (server-sent events), for students that write.

Unknown fields are refused: an option that is ignored is a wrong answer nobody sees.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from serving.bundle.answer import BundleError
from serving.fallback.cascade import UnansweredError
from serving.seams.problems import ANSWERING, Refusal, problem
from serving.students.stepper import Writing
from serving.web import api, forms, inputs, refusals
from serving.web.asked import Asked, Desk, Given, Pieces

TASKS = ("text_generation", "visual_qa")
MESSAGES_MAX, TOKENS_MAX, STOPS_MAX = 64, 4096, 4
DATA_URL = "base64,"
FIELDS = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(BaseModel):
    """Words."""

    model_config = FIELDS
    type: Literal["text"]
    text: str = Field(max_length=api.TEXT_CHARACTERS_MAX)


class ImageUrl(BaseModel):
    """A picture in the URL itself; nothing is fetched from elsewhere."""

    model_config = FIELDS
    url: str = Field(pattern=r"^data:image/[a-z+.-]{1,20};base64,")
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(BaseModel):
    """A picture."""

    model_config = FIELDS
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One turn. The student sees the texts of all turns, each on a line of its own."""

    model_config = FIELDS
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = Field(max_length=api.TEXT_CHARACTERS_MAX)
    name: str | None = Field(None, max_length=64)


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = FIELDS
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A conversation to continue. `user` decides the arm, as `unit` does elsewhere."""

    model_config = FIELDS
    model: str = Field(min_length=1, max_length=128, description="Any: what is served answers, and signs.")
    messages: list[Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=TOKENS_MAX)
    max_completion_tokens: int | None = Field(None, ge=1, le=TOKENS_MAX)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: Literal[1] | None = None
    n: Literal[1] | None = None
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    stop: str | list[str] | None = Field(None, max_length=api.ID_CHARACTERS_MAX)
    user: str | None = Field(None, max_length=api.ID_CHARACTERS_MAX)

    def item(self) -> dict[str, Any]:
        """The conversation as models take it."""
        texts, images = [], []
        for message in self.messages:
            said = message.content
            for part in [TextPart(type="text", text=said)] if isinstance(said, str) else said:
                if isinstance(part, TextPart):
                    texts.append(part.text)
                else:
                    images.append(_picture(part.image_url.url))
        return {"text": "\n".join(text for text in texts if text), "images": images}

    def writing(self) -> Writing:
        """How the answer is written."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > STOPS_MAX or not all(stops):
            raise Refusal("invalid_request", f"stop: got {len(stops)} words, expected at most {STOPS_MAX}, none empty")
        return Writing(self.max_completion_tokens or self.max_tokens, self.temperature, self.seed, tuple(stops))


class Answered(BaseModel):
    """A completion as OpenAI's clients read it; `raydistill` says who wrote it and why."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int] | None = None
    raydistill: dict[str, Any]


def add(app: FastAPI, desk: Desk) -> None:
    """Add the route."""

    streamed: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    responses = {200: streamed, **refusals.documented(*ANSWERING, "not_found")}

    @app.post("/v1/chat/completions", response_model=Answered, responses=responses)
    async def complete(request: Request) -> Any:
        """Continue a conversation, whole or as server-sent events (`stream`)."""
        inputs.let_in(request, desk)
        body = await forms.read_json(request, ChatRequest)
        if desk.task not in TASKS:
            raise Refusal("not_found", f"what is served does {desk.task} and writes no answers: ask /v1/predict")
        item = body.item()
        inputs.look(item, desk)
        number = inputs.request_id(request)
        unit, delay_ms = body.user or number, inputs.delay_ms(request, desk)
        asked = Asked(number, unit, item, "chat", delay_ms, body.writing())
        if not body.stream:
            return _whole(number, await desk.answer(asked))
        pieces = desk.write(asked)
        first = await anext(pieces)  # what is refused is refused before the stream begins
        assert isinstance(first, str)
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(number, first, pieces, usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _events(number: str, first: str, pieces: Pieces, usage: bool) -> AsyncIterator[str]:
    frame = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": int(time.time())}
    frame["model"] = "student"
    yield _event(frame, {"role": "assistant", "content": first})
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, str):
                    yield _event(frame, {"content": piece})
                    continue
                frame["model"] = piece.model
                yield _event(frame, {}, _finish(piece), raydistill=_signed(number, piece))
                if usage:
                    yield f"data: {json.dumps({**frame, 'choices': [], 'usage': _usage(piece)})}\n\n"
    except (BundleError, Refusal, UnansweredError, TimeoutError) as error:
        # The status line is long gone: the stream says what happened, and does not pretend to be whole.
        document = problem("unanswered", f"the answer broke off: {error}", request_id=number)
        yield f"data: {json.dumps({'error': document})}\n\n"
    yield "data: [DONE]\n\n"


def _event(frame: dict[str, Any], delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return f"data: {json.dumps({**frame, 'choices': [choice], **more})}\n\n"


def _whole(number: str, given: Given) -> Answered:
    message = {"role": "assistant", "content": given.answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": _finish(given), "logprobs": None}
    return Answered(
        id=f"chatcmpl-{number}", created=int(time.time()), model=given.model, choices=[choice], usage=_usage(given),
        raydistill=_signed(number, given),
    )  # fmt: skip


def _finish(given: Given) -> str:
    return "length" if given.written is not None and not given.written.ended else "stop"


def _usage(given: Given) -> dict[str, int] | None:
    if given.written is None:
        return None
    prompt, written = given.written.prompt_tokens, given.written.tokens
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _signed(number: str, given: Given) -> dict[str, Any]:
    return {
        "request_id": number, "arm": given.arm, "version": given.version, "fell_back": given.fell_back,
        "reason": given.reason, "confidence": min(given.answer.confidence, 1.0),
    }  # fmt: skip


def _picture(url: str) -> bytes:
    try:
        found = api.decoded(url.partition(DATA_URL)[2])
    except ValueError as error:
        raise Refusal("invalid_request", f"image_url: {error}") from None
    assert isinstance(found, bytes)
    return found

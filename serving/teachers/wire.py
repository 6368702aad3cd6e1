"""What goes over the wire to an OpenAI-compatible `/chat/completions`, and what its reply means; no network in here."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.bundle.answer import BundleError
from serving.teachers.budget import Prices
from serving.teachers.replies import Reply, TopLogprobs, Usage
from serving.teachers.retry import Trouble

Message = dict[str, Any]
# First bytes of the picture formats that endpoints read.
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
OVERHEAD_TOKENS = 64  # most that a chat template puts around a conversation, a default system message included
IMAGE_TOKENS = 4096  # most that an endpoint counts a picture for, as far as their price lists say


class Malformed(ValueError):
    """A reply that is no chat completion: the sentence says what is missing."""


def messages(item: Mapping[str, Any], system: str | None) -> list[Message]:
    """The conversation of `{"text": str, "images": [bytes]}`.

    Raises BundleError for an empty text or bytes that are no PNG, JPEG or WEBP.
    """
    text = item.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BundleError(f"text: got {text!r:.80}, expected a non-empty string")
    images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in item.get("images") or ()]
    content = [{"type": "text", "text": text}, *images] if images else text
    start = [] if system is None else [{"role": "system", "content": system}]
    return [*start, {"role": "user", "content": content}]


def most_input_tokens(conversation: Sequence[Message]) -> int:
    """An upper bound on a conversation's tokens: a token is at least one byte of the text it stands for."""
    total = OVERHEAD_TOKENS
    for message in conversation:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        total += sum(len(part["text"].encode()) if part["type"] == "text" else IMAGE_TOKENS for part in parts)
    return total


def parse(body: bytes, prices: Prices, most: Usage, ask_logprobs: bool) -> Reply | Trouble:
    """The reply in a 200 body, or what is wrong with it.

    `most` is what the attempt reserved: its bounds stand in for a usage that the server does not tell.
    """
    try:
        whole = json.loads(body)
    except ValueError as error:
        return Trouble("bad_json", f"{error} in a reply of {len(body)} bytes", again=True, charged=True)
    try:
        choice, usage = _choice(whole), _usage(whole, prices, most)
        if choice.get("finish_reason") == "content_filter":
            return Trouble("content_filter", "the endpoint withheld the answer", again=False, charged=True)
        text = choice["message"].get("content")
        if not isinstance(text, str) or not text:
            said = choice["message"].get("refusal") or f"finish_reason {choice.get('finish_reason')}"
            return Trouble("empty", f"no text in the answer: {said}", again=False, charged=True)
        top = _top(choice.get("logprobs")) if ask_logprobs else None
    except Malformed as error:
        return Trouble("bad_reply", str(error), again=True, charged=True)
    return Reply(text, None if top is None else top.confidence, top=top, usage=usage)


def _choice(whole: Any) -> Mapping[str, Any]:
    choices = whole.get("choices") if isinstance(whole, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Malformed("no choices in the reply")
    if not isinstance(choices[0].get("message"), dict):
        raise Malformed("no message in the first choice")
    return choices[0]


def _usage(whole: Mapping[str, Any], prices: Prices, most: Usage) -> Usage:
    told = whole.get("usage")
    counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(told, dict) else []
    whole_numbers = [one for one in counts if isinstance(one, int) and one >= 0]
    if len(whole_numbers) == 2:
        return prices.usage(whole_numbers[0], whole_numbers[1])
    return prices.usage(most.input_tokens, most.output_tokens, measured=False)


def _top(logprobs: Any) -> TopLogprobs | None:
    """None where the endpoint gave none, or an empty list. Raises Malformed for another form than documented."""
    positions = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not positions:
        return None
    try:
        listed = [position.get("top_logprobs") or [] for position in positions]
        chosen = [_logprob(position) for position in positions]
        flat = [(str(one["token"]), _logprob(one)) for alternatives in listed for one in alternatives]
    except (AttributeError, KeyError, TypeError) as error:
        raise Malformed(f"log-probabilities of an unknown form ({type(error).__name__}: {error})") from None
    return TopLogprobs(
        np.array(chosen, np.float32),
        np.array([len(alternatives) for alternatives in listed], np.int32),
        np.array([value for _, value in flat], np.float32),
        tuple(word for word, _ in flat),
    )


def _logprob(position: Mapping[str, Any]) -> float:
    value = position["logprob"]
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise Malformed(f"{value!r} is no log-probability")
    return float(value)


def _data_url(image: bytes) -> str:
    kinds = [kind for magic, kind in MAGIC.items() if image.startswith(magic)]
    if not kinds:
        raise BundleError("image: not a PNG, JPEG or WEBP picture")
    return f"data:{kinds[0]};base64,{base64.b64encode(image).decode()}"

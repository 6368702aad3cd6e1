"""Request logs of OpenAI-style endpoints as seed rows: what was asked, and what a model answered.

One JSON object per line, in any of the forms people have: `messages` with a `response` (text or the endpoint's whole
answer) or with the answer as their last message; `request` and `response` as a proxy writes them; the files of the
batch API (input lines with `body`, output lines with `response.body`), joined by `custom_id` over all files given; the
Responses API (`input`, `instructions`, `output`) and plain completions (`prompt`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.before.seeds import Found, Seed
from jobs.data import readers
from jobs.data.cells import CellError
from jobs.data.readers import DeadLetter

MARKS = ("messages", "custom_id", "body", "request")  # a line of a table has none of these
KEYS = (*MARKS, "response", "error", "input", "instructions", "prompt", "choices", "output", "model")
TEXT_PARTS = ("text", "input_text", "output_text")
ENDINGS = (".jsonl", ".ndjson")
FIRST_ERROR_STATUS = 400  # HTTP


@dataclass(frozen=True)
class _Line:
    file: str
    row: int
    values: Mapping[str, Any]


def is_log(path: Path) -> bool:
    """Whether the first JSON object of a file looks like a logged request."""
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        return False
    with path.open("rb") as stream:
        for line in stream:
            try:
                first = json.loads(line)
            except ValueError:  # not this line; the reader says later what is wrong with it
                continue
            return isinstance(first, dict) and any(mark in first for mark in MARKS)
    return False


def read(paths: Sequence[Path]) -> Found:
    """Seed rows of log files, in their order. Raises DataError where a file cannot be read at all.

    Set aside: `malformed_request`, `no_user_message`, `empty_text`, `non_text_content` (pictures, sounds), and of
    batches and proxies `failed_request` (an error or a status of 400 and more), `no_request` (an answer whose request
    is in no file). A request without an answer is a row without `response`.
    """
    lines, dead = [], []
    for path in paths:
        raw = readers.read(path, {}, KEYS)
        dead += raw.dead
        for place, number in enumerate(raw.numbers):
            values = {name: column[place] for name, column in raw.columns.items() if column[place] is not None}
            lines.append(_Line(path.name, number, values))
    rows: list[Seed] = []
    for line, request in _requests(lines):
        try:
            rows.append(_seed(line, request))
        except CellError as bad:
            dead.append(DeadLetter(line.file, line.row, bad.reason, bad.detail))
    return Found(rows, dead)


def _requests(lines: Sequence[_Line]) -> Iterator[tuple[_Line, Mapping[str, Any] | None]]:
    """Each logged call once: the line that ends it, and its request. A batch's input line waits for its output line."""
    asked = {_id(line): line for line in lines if _is_input(line)}
    answered = {_id(line) for line in lines if _id(line) is not None and not _is_input(line)}
    for line in lines:
        if _is_input(line):
            if _id(line) not in answered:
                yield line, _body(line.values["body"])
        elif "custom_id" in line.values and not {"messages", "request", "body", "input", "prompt"} & set(line.values):
            waiting = asked.get(_id(line))
            yield line, None if waiting is None else _body(waiting.values["body"])
        else:
            own = [line.values[key] for key in ("request", "body") if key in line.values]
            yield line, _body(own[0]) if own else line.values


def _is_input(line: _Line) -> bool:
    return "custom_id" in line.values and "body" in line.values and "response" not in line.values


def _id(line: _Line) -> str | None:
    return str(line.values["custom_id"]) if "custom_id" in line.values else None


def _body(request: Any) -> Mapping[str, Any] | None:
    """The body of a request that may be wrapped once more ({"body": ...}); None where it is no JSON object."""
    if not isinstance(request, dict):
        return None
    inner = request.get("body") or request
    return inner if isinstance(inner, dict) else None


def _seed(line: _Line, request: Mapping[str, Any] | None) -> Seed:
    if request is None:
        reason = "malformed_request" if {"request", "body"} & set(line.values) else "no_request"
        raise CellError(reason, "no JSON object with messages" if reason == "malformed_request" else
                        f"custom_id {_id(line)} is in no input file")  # fmt: skip
    turns = _conversation(request)
    reply = _reply(line.values)
    if "text" not in reply and turns and turns[-1]["role"] == "assistant":
        reply = {**reply, "text": turns.pop()["content"]}
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    if not asked:
        raise CellError("no_user_message", f"roles: {', '.join(turn['role'] for turn in turns) or 'none'}")
    if not asked[-1].strip():
        raise CellError("empty_text", "the last user message is blank")
    system = [turn["content"] for turn in turns if turn["role"] in ("system", "developer")]
    model = reply.get("model") or request.get("model")
    return Seed(
        line.file, line.row, text=asked[-1], system="\n".join(system) or None,
        messages=json.dumps(turns, ensure_ascii=False),
        response=reply.get("text") or None,
        model=str(model) if model is not None else None,
        finish_reason=reply.get("finish_reason"),
    )  # fmt: skip


def _conversation(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of a request as role and text, whichever endpoint it was for. Raises CellError."""
    turns: list[dict[str, str]] = []
    if isinstance(instructions := _get(request, "instructions"), str):
        turns.append({"role": "system", "content": instructions})
    given = next((request[key] for key in ("messages", "input", "prompt") if key in request), None)
    if isinstance(given, str):
        return [*turns, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise CellError("malformed_request", f"messages: got {type(given).__name__}, expected a list")
    for message in given:
        role = _get(message, "role")
        if not isinstance(role, str):
            raise CellError("malformed_request", "a message without a role")
        turns.append({"role": role, "content": _text(_get(message, "content"))})
    return turns


def _reply(values: Mapping[str, Any]) -> dict[str, Any]:
    """`text`, `finish_reason` and `model` of the answer, as far as there is one. Raises CellError on a failed call."""
    response = _get(values, "response")
    failure = _get(values, "error") or _get(response, "error")
    status = _get(response, "status_code")
    if failure or (isinstance(status, int) and status >= FIRST_ERROR_STATUS):
        raise CellError("failed_request", f"status {status}: {json.dumps(failure)[:200]}")
    body = _get(response, "body") if _get(response, "body") is not None else response
    if isinstance(body, str):
        return {"text": body}
    body = body if isinstance(body, dict) else values
    found: dict[str, Any] = {"model": body["model"]} if isinstance(_get(body, "model"), str) else {}
    if isinstance(choices := _get(body, "choices"), list) and choices:
        return found | _choice(choices[0])
    if isinstance(output := _get(body, "output"), list):  # Responses API: reasoning and tool calls beside messages
        texts = [_text(_get(item, "content")) for item in output if _get(item, "type") in ("message", None)]
        return found | {"text": "".join(texts)}
    if body is not values and _get(body, "content") is not None:
        return found | {"text": _text(body["content"])}
    return found


def _choice(choice: Any) -> dict[str, Any]:
    content = _get(_get(choice, "message"), "content")
    text = _text(content if content is not None else _get(choice, "text"))
    reason = _get(choice, "finish_reason")
    return {"text": text} | ({"finish_reason": reason} if isinstance(reason, str) else {})


def _text(content: Any) -> str:
    """A message's content, its text parts joined; nothing for null (a tool call). Raises CellError on other parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise CellError("malformed_request", f"content: got {type(content).__name__}, expected text or parts")
    other = {str(_get(part, "type")) for part in content if _get(part, "type") not in TEXT_PARTS}
    if other:
        raise CellError("non_text_content", f"parts: {', '.join(sorted(other))}")
    return "".join(str(_get(part, "text")) for part in content)


def _get(value: Any, key: str) -> Any:
    """What a JSON object holds under a key; null for no object and no such key, as JSON logs mean it."""
    return value[key] if isinstance(value, dict) and key in value else None

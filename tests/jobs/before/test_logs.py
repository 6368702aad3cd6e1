"""Request logs in every form people have them: what was asked, what was answered, and what cannot be used and why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.before import logs

Command = Callable[..., tuple[int, dict[str, Any]]]


def answer(text: str | None, finish: str = "stop", model: str = "big-1") -> dict[str, Any]:
    """A chat completion as an endpoint returns it."""
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "model": model, "choices": [{"message": message, "finish_reason": finish}]}


def user(text: Any, system: str | None = None) -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": text}]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


FORMS: dict[str, dict[str, Any]] = {
    "messages and text": {"messages": user("hi there"), "response": "hello"},
    "messages and the endpoint's answer": {"messages": user("hi there"), "response": answer("hello")},
    "messages that end with the answer": {"messages": [*user("hi there"), {"role": "assistant", "content": "hello"}]},
    "messages and choices": {"messages": user("hi there"), **answer("hello")},
    "a proxy's request and response": {"request": {"model": "m", "messages": user("hi there")},
                                       "response": answer("hello")},
    "a proxy that wraps both": {"request": {"body": {"messages": user("hi there")}},
                                "response": {"status_code": 200, "body": answer("hello")}},
    "parts": {"messages": user([{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}]),
              "response": {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}},
    "the Responses API": {"request": {"model": "m", "input": "hi there"}, "response": {"output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hello"}]}]}},
    "a plain completion": {"request": {"prompt": "hi there"}, "response": {"choices": [{"text": "hello"}]}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_question_and_the_answer(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [FORMS[form]])
    assert logs.is_log(path)
    found = logs.read([path])
    assert found.dead == []
    assert [(row.text, row.response) for row in found.rows] == [("hi there", "hello")]


def test_the_system_prompt_the_turns_before_and_the_model_are_kept(tmp_path: Path) -> None:
    turns = [*user("first", "be brief"), {"role": "assistant", "content": "ok"}, *user("second")]
    row = logs.read([write(tmp_path / "log.jsonl", [{"messages": turns, "response": answer("done", "length")}])]).rows[
        0
    ]
    assert (row.text, row.system, row.response, row.model, row.finish_reason) == (
        "second", "be brief", "done", "big-1", "length",
    )  # fmt: skip
    assert [turn["content"] for turn in json.loads(row.messages or "")] == ["be brief", "first", "ok", "second"]


def test_batch_files_are_joined_by_custom_id_in_any_order(tmp_path: Path) -> None:
    asked = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions",
              "body": {"model": "m", "messages": user(f"question {n}")}} for n in range(4)]  # fmt: skip
    done = [{"id": "x", "custom_id": str(n), "response": {"status_code": 200, "body": answer(f"answer {n}")},
             "error": None} for n in (2, 0)]  # fmt: skip
    failed = {"id": "x", "custom_id": "1", "response": {"status_code": 429, "body": {"error": {"code": "slow"}}}}
    stray = {"id": "x", "custom_id": "9", "response": {"status_code": 200, "body": answer("whose?")}}
    output = write(tmp_path / "output.jsonl", [*done, failed, stray])
    found = logs.read([output, write(tmp_path / "input.jsonl", asked)])
    assert [(row.text, row.response) for row in found.rows] == [
        ("question 2", "answer 2"), ("question 0", "answer 0"), ("question 3", None),
    ]  # fmt: skip
    assert [(one.file, one.row, one.reason) for one in found.dead] == [
        ("output.jsonl", 2, "failed_request"), ("output.jsonl", 3, "no_request"),
    ]  # fmt: skip


BAD: list[tuple[Any, str]] = [
    ("{not json", "malformed_row"),
    ({"messages": 3}, "malformed_request"),
    ({"messages": [3]}, "malformed_request"),
    ({"messages": [{"role": "user", "content": 3}]}, "malformed_request"),
    ({"request": "POST /v1", "response": "hello"}, "malformed_request"),
    ({"messages": []}, "no_user_message"),
    ({"messages": [{"role": "system", "content": "be brief"}]}, "no_user_message"),
    ({"messages": user("  ")}, "empty_text"),
    ({"messages": user([{"type": "image_url", "image_url": {"url": "data:"}}])}, "non_text_content"),
    ({"messages": user("hi"), "error": {"message": "overloaded"}}, "failed_request"),
    ({"messages": user("hi"), "response": {"error": {"message": "overloaded"}}}, "failed_request"),
    ({"messages": user("hi"), "response": {"status_code": 500, "body": None}}, "failed_request"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_used_is_set_aside_with_its_reason(line: Any, reason: str, tmp_path: Path) -> None:
    found = logs.read([write(tmp_path / "log.jsonl", [{"messages": user("good")}, line])])
    assert [row.text for row in found.rows] == ["good"]
    assert [(one.row, one.reason) for one in found.dead] == [(1, reason)]


def test_a_tool_call_has_no_answer_and_is_a_row_all_the_same(tmp_path: Path) -> None:
    row = logs.read([write(tmp_path / "log.jsonl", [{"messages": user("hi"), "response": answer(None, "tool_calls")}])])
    assert [(one.response, one.finish_reason) for one in row.rows] == [(None, "tool_calls")]


def test_a_table_of_text_and_label_is_no_log(tmp_path: Path) -> None:
    assert not logs.is_log(write(tmp_path / "table.jsonl", [{"text": "hi", "label": "a", "response": "x"}]))
    assert not logs.is_log(write(tmp_path / "broken.jsonl", ["{", "[]"]))


def test_logged_answers_become_labels_when_asked_for(command: Command, tmp_path: Path) -> None:
    lines = [{"messages": user(f"about my {'card' if n % 2 else 'loan'} {n}", "Answer card or loan."),
              "response": answer(" card\n" if n % 2 else "loan")} for n in range(60)]  # fmt: skip
    lines.append({"messages": user("cut"), "response": answer("car", "length")})
    path = write(tmp_path / "log.jsonl", lines)
    code, said = command("import", path, "--out", "plain")
    assert (code, said["next"]) == (0, None)
    assert "--label response" in said["needs"]
    _, said = command("import", path, "--out", "labelled", "--label", "response")
    assert said["labels"] == {"loan": 30, "card": 30}
    assert said["unlabelled"] == 1
    assert said["next"]
    table = pq.read_table(tmp_path / "labelled/train.parquet")
    assert set(table.column_names) == {"text", "label", "system", "messages", "response", "model", "finish_reason",
                                       "file", "row"}  # fmt: skip


def test_personal_data_is_masked_in_every_turn(command: Command, tmp_path: Path) -> None:
    turns = [*user("I am jo.doe@example.com", "mail root@example.com"), {"role": "assistant", "content": "hi"},
             *user("what is my mail")]  # fmt: skip
    lines = [{"messages": user(f"q {n}")} for n in range(40)]
    path = write(tmp_path / "log.jsonl", [*lines, {"messages": turns, "response": "it is jo.doe@example.com"}])
    _, said = command("import", path, "--pii", "mask", "--out", "out")
    assert said["pii"]["found"] == {"email": 3}
    rows = [
        row for split in ("train", "validation", "test") for row in pq.read_table(f"out/{split}.parquet").to_pylist()
    ]
    row = next(row for row in rows if row["text"] == "what is my mail")
    assert "example.com" not in str(row)
    assert len(json.loads(row["messages"])) == 4

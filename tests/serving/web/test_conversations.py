"""OpenAI's chat completions over the routes: whole, streamed, and refused in words."""

import json
from typing import Any

import pytest

from serving.bundle.answer import Answer
from serving.fallback.cascade import UnansweredError
from serving.students.stepper import Writing, Written
from serving.web.asked import Given

HELLO = {"model": "any", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}


def test_a_conversation_is_answered_as_openai_does(web: Any) -> None:
    written = Written(Answer("good day", 0.5), tokens=2, prompt_tokens=4, ended=False)
    desk = web.desk(Given(written.answer, "champion", "digits", "3", False, None, written), task="text_generation")
    answered = web.post(
        desk, path="/v1/chat/completions", json={**HELLO, "max_tokens": 2, "stop": "x", "user": "u"}
    ).json()
    assert answered["choices"][0]["message"]["content"] == "good day"
    assert answered["choices"][0]["finish_reason"] == "length"
    assert answered["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    assert (answered["raydistill"]["confidence"], answered["model"]) == (0.5, "digits")
    asked = desk.asked[0]
    assert (asked.item["text"], asked.unit, asked.writing) == ("Be brief.\nHi", "u", Writing(2, None, None, ("x",)))


def test_a_stream_carries_the_pieces_then_who_wrote_them(web: Any) -> None:
    desk = web.desk(web.given(Answer("good day", 0.5)), task="text_generation")
    streamed = web.post(desk, path="/v1/chat/completions", json={**HELLO, "stream": True}).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["good", "day", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["raydistill"]["arm"] == "champion"


def test_what_a_stream_cannot_begin_is_refused_before_it(web: Any) -> None:
    desk = web.desk(UnansweredError("timeout", "none"), task="text_generation")
    assert web.post(desk, path="/v1/chat/completions", json={**HELLO, "stream": True}).status_code == 503


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"tools": []}, 422), ({"n": 2}, 422), ({"messages": []}, 422), ({"temperature": 9}, 422),
        ({"stop": [""]}, 422),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, 422),
    ],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(web: Any, more: dict[str, Any], status: int) -> None:
    answered = web.post(
        web.desk(web.seven, task="text_generation"), path="/v1/chat/completions", json={**HELLO, **more}
    )
    assert (answered.status_code, answered.json()["code"]) == (status, "invalid_request")


def test_a_model_that_writes_nothing_has_no_conversations(web: Any) -> None:
    desk = web.desk(web.seven, task="text_classification")
    assert web.post(desk, path="/v1/chat/completions", json=HELLO).json()["code"] == "not_found"

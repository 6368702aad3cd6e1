"""HTTP without Ray: what is asked wrongly is answered with a problem document that a program can go by."""

import asyncio
from typing import Any

import httpx
import pytest

from serving import api, routes
from serving.bundle.answer import Answer, BundleError
from serving.cascade import Outcome, UnansweredError


class Desk:
    """Answers what it is told to."""

    images_max = 1
    frames_max = 2
    hears = False

    def __init__(self, gives: Outcome | Exception, allow_fault_injection: bool = False) -> None:
        self.gives, self.allow_fault_injection = gives, allow_fault_injection
        self.delays: list[float] = []
        self.items: list[dict[str, Any]] = []

    async def predict(self, item: dict[str, Any], delay_ms: float) -> Outcome:
        self.delays.append(delay_ms)
        self.items.append(item)
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    async def warm(self) -> None:
        """Nothing to connect to."""

    def models(self) -> list[dict[str, Any]]:
        return [{"id": "digits", "version": "3", "arm": "student"}, {"id": "teacher", "version": "abc", "arm": None}]


SEVEN = Outcome(Answer("seven", 0.9), fell_back=False, reason=None)


def post(desk: Desk, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(routes.create(desk), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/v1/predict", headers=headers, **body)

    return asyncio.run(send())


def test_an_answer_says_who_gave_it() -> None:
    answered = post(Desk(SEVEN), json={"text": "what digit is this ?"}).json()
    assert answered.pop("latency_ms") >= 0
    assert len(answered.pop("request_id")) == 32
    assert answered == {
        "text": "seven", "confidence": 0.9, "model": "digits", "version": "3", "arm": "student", "fell_back": False,
        "reason": None,
    }  # fmt: skip


def test_the_teacher_signs_what_it_answers() -> None:
    answered = post(Desk(Outcome(Answer("nine", 0.8), fell_back=True, reason="timeout")), json={"text": "a"}).json()
    assert (answered["model"], answered["version"], answered["reason"]) == ("teacher", "abc", "timeout")


def test_classifiers_give_label_and_probabilities() -> None:
    classes = Answer("card_lost", 0.7, {"card_lost": 0.7, "top_up": 0.3})
    answered = post(Desk(Outcome(classes, fell_back=False, reason=None)), json={"text": "a"}).json()
    assert (answered["label"], answered["probabilities"]["top_up"]) == ("card_lost", 0.3)


def test_media_reach_the_model_as_the_bytes_they_are() -> None:
    desk = Desk(SEVEN)
    desk.hears = True
    post(desk, json={"text": "a", "images": ["YQ=="], "audio": "Yg==", "video": ["Yw==", "ZA=="], "fps": 2})
    post(desk, json={"text": "a"})
    post(desk, json={"images": ["YQ=="]})
    assert desk.items == [
        {"text": "a", "images": [b"a"], "audio": b"b", "frames": [b"c", b"d"], "fps": 2.0},
        {"text": "a", "images": []},
        {"text": "", "images": [b"a"]},
    ]


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("two words", False), ("x" * 129, False)])
def test_a_callers_request_id_is_kept_when_it_is_short_and_printable(given: str, kept: bool) -> None:
    answered = post(Desk(SEVEN), {"x-request-id": given}, json={"text": "a"}).json()
    assert (answered["request_id"] == given) == kept


JSON = {"content-type": "application/json"}
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("no JSON", {"content": b"{", "headers": JSON}, 400, "invalid_json"),
    ("deep JSON", {"content": b'{"text":' + b"[" * 100_000, "headers": JSON}, 400, "invalid_json"),
    ("no content type", {"content": b'{"text": "a"}'}, 422, "invalid_request"),
    ("no text", {"json": {}}, 422, "invalid_request"),
    ("empty text", {"json": {"text": ""}}, 422, "invalid_request"),
    ("long text", {"json": {"text": "a" * (api.TEXT_CHARACTERS_MAX + 1)}}, 422, "invalid_request"),
    ("half a character", {"content": b'{"text":"\\ud800"}', "headers": JSON}, 422, "invalid_request"),
    ("unknown key", {"json": {"text": "a", "sound": ""}}, 422, "invalid_request"),
    ("a sound for a student that hears nothing", {"json": {"text": "a", "audio": "YQ=="}}, 422, "unreadable_input"),
    ("more frames than the model reads", {"json": {"text": "a", "video": ["YQ=="] * 3}}, 422, "unreadable_input"),
    ("a video at no speed", {"json": {"text": "a", "video": ["YQ=="], "fps": 0}}, 422, "invalid_request"),
    ("no base64", {"json": {"text": "a", "images": ["%%%"]}}, 422, "invalid_request"),
    ("an image that is a number", {"json": {"text": "a", "images": [7]}}, 422, "invalid_request"),
    ("three images", {"json": {"text": "a", "images": ["", "", ""]}}, 422, "invalid_request"),
    ("more images than the model reads", {"json": {"text": "a", "images": ["YQ==", "YQ=="]}}, 422, "unreadable_input"),
    ("a large body", {"content": b"x" * (api.BODY_BYTES_MAX + 1), "headers": JSON}, 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_asked_wrongly_gets_a_problem_document(body: dict[str, Any], status: int, code: str) -> None:
    refused = post(Desk(SEVEN), **body)
    document = refused.json()
    assert refused.headers["content-type"] == api.PROBLEM_TYPE
    assert (refused.status_code, document["status"], document["code"]) == (status, status, code)
    assert len(refused.content) < 2000  # never the whole input back


def test_a_flaw_says_where_what_was_got_and_what_was_expected() -> None:
    (flaw,) = post(Desk(SEVEN), json={"text": 7}).json()["errors"]
    assert (flaw["where"], flaw["got"]) == ("body.text", "7")
    assert "string" in flaw["expected"]


def test_an_unreadable_picture_is_the_callers_fault() -> None:
    refused = post(Desk(BundleError("image: not a readable picture")), json={"text": "a"})
    assert (refused.status_code, refused.json()["code"]) == (422, "unreadable_input")


def test_no_answer_is_a_503_that_says_why() -> None:
    refused = post(Desk(UnansweredError("timeout", "error")), json={"text": "a"})
    document = refused.json()
    assert (refused.status_code, document["code"]) == (503, "unanswered")
    assert (document["reason"], document["student"], document["teacher"]) == ("timeout", "timeout", "error")


def test_a_bug_is_a_500_without_its_details() -> None:
    refused = post(Desk(RuntimeError("secret path")), json={"text": "a"})
    assert (refused.status_code, refused.json()["code"]) == (500, "internal")
    assert "secret" not in refused.text


def test_a_delay_is_injected_only_where_that_is_allowed() -> None:
    header = {api.DELAY_HEADER: "250"}
    closed, opened = Desk(SEVEN), Desk(SEVEN, allow_fault_injection=True)
    assert post(closed, header, json={"text": "a"}).status_code == 200
    assert post(opened, header, json={"text": "a"}).status_code == 200
    assert (closed.delays, opened.delays) == ([0.0], [250.0])
    assert post(opened, {api.DELAY_HEADER: "1e9"}, json={"text": "a"}).status_code == 422

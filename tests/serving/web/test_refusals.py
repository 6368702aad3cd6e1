"""HTTP without Ray: what is asked wrongly is answered with a problem document that a program can go by."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from serving.bundle.answer import BundleError
from serving.fallback.cascade import UnansweredError
from serving.seams import problems
from serving.seams.problems import Refusal
from serving.web import api
from serving.web.examples import picture

PNG = base64.b64encode(picture(8)).decode()
JSON, FORM = {"content-type": "application/json"}, "multipart/form-data"


def bomb() -> str:
    """4,000 x 4,000 black pixels in 20 kB."""
    buffer = io.BytesIO()
    Image.new("1", (4000, 4000)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


BOMB = bomb()
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("no JSON", {"content": b"{", "headers": JSON}, 400, "invalid_json"),
    ("deep JSON", {"content": b'{"text":' + b"[" * 100_000, "headers": JSON}, 400, "invalid_json"),
    ("no content type", {"content": b'{"text": "a"}'}, 415, "unsupported_media"),
    ("a form of another kind", {"data": {"text": "a"}}, 415, "unsupported_media"),
    (
        "a form without an end",
        {"content": b"--x\r\n", "headers": {"content-type": f"{FORM}; boundary=x"}},
        422,
        "invalid_request",
    ),
    (
        "a form without a boundary",
        {"content": b"", "headers": {"content-type": FORM}},
        422,
        "invalid_request",
    ),
    ("a form field twice", {"files": [("text", (None, "a")), ("text", (None, "b"))]}, 422, "invalid_request"),
    ("no number", {"content": b'{"text": "a", "fps": NaN}', "headers": JSON}, 422, "invalid_request"),
    ("a picture that unfolds", {"json": {"text": "a", "images": [BOMB]}}, 422, "unreadable_input"),
    ("no picture", {"json": {"text": "a", "images": ["YQ=="]}}, 422, "unreadable_input"),
    ("no text", {"json": {}}, 422, "invalid_request"),
    ("empty text", {"json": {"text": ""}}, 422, "invalid_request"),
    ("long text", {"json": {"text": "a" * (api.TEXT_CHARACTERS_MAX + 1)}}, 422, "invalid_request"),
    ("half a character", {"content": b'{"text":"\\ud800"}', "headers": JSON}, 400, "invalid_json"),
    ("unknown key", {"json": {"text": "a", "sound": ""}}, 422, "invalid_request"),
    ("a sound for a student that hears nothing", {"json": {"text": "a", "audio": "YQ=="}}, 422, "unreadable_input"),
    ("more frames than the model reads", {"json": {"text": "a", "video": [PNG] * 3}}, 422, "unreadable_input"),
    ("a video at no speed", {"json": {"text": "a", "video": ["YQ=="], "fps": 0}}, 422, "invalid_request"),
    ("no base64", {"json": {"text": "a", "images": ["%%%"]}}, 422, "invalid_request"),
    ("an image that is a number", {"json": {"text": "a", "images": [7]}}, 422, "invalid_request"),
    ("three images", {"json": {"text": "a", "images": ["", "", ""]}}, 422, "invalid_request"),
    ("more images than the model reads", {"json": {"text": "a", "images": [PNG, PNG]}}, 422, "unreadable_input"),
    ("a large body", {"content": b"x" * ((1 << 20) + 1), "headers": JSON}, 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_asked_wrongly_gets_a_problem_document(web: Any, body: dict[str, Any], status: int, code: str) -> None:
    refused = web.post(web.desk(web.seven), **body)
    document = refused.json()
    assert refused.headers["content-type"] == problems.PROBLEM_TYPE
    assert (refused.status_code, document["status"], document["code"]) == (status, status, code)
    assert len(refused.content) < 2000  # never the whole input back


def test_a_flaw_says_where_what_was_got_and_what_was_expected(web: Any) -> None:
    (flaw,) = web.post(web.desk(web.seven), json={"text": 7}).json()["errors"]
    assert (flaw["where"], flaw["got"]) == ("body.text", "7")
    assert "string" in flaw["expected"]


def test_an_unreadable_picture_is_the_callers_fault(web: Any) -> None:
    refused = web.post(web.desk(BundleError("image: not a readable picture")), json={"text": "a"})
    assert (refused.status_code, refused.json()["code"]) == (422, "unreadable_input")


def test_no_answer_is_a_503_that_says_why(web: Any) -> None:
    refused = web.post(web.desk(UnansweredError("timeout", "error")), json={"text": "a"})
    document = refused.json()
    assert (refused.status_code, document["code"]) == (503, "unanswered")
    assert (document["reason"], document["student"], document["teacher"]) == ("timeout", "timeout", "error")


def test_a_bug_is_a_500_without_its_details(web: Any) -> None:
    refused = web.post(web.desk(RuntimeError("secret path")), json={"text": "a"})
    assert (refused.status_code, refused.json()["code"]) == (500, "internal")
    assert "secret" not in refused.text


def test_a_delay_is_injected_only_where_that_is_allowed(web: Any) -> None:
    header = {api.DELAY_HEADER: "250"}
    closed, opened = web.desk(web.seven), web.desk(web.seven, allow_fault_injection=True)
    assert web.post(closed, header, json={"text": "a"}).status_code == 200
    assert web.post(opened, header, json={"text": "a"}).status_code == 200
    assert [asked.delay_ms for asked in (*closed.asked, *opened.asked)] == [0.0, 250.0]
    assert web.post(opened, {api.DELAY_HEADER: "1e9"}, json={"text": "a"}).status_code == 422


def test_a_full_queue_says_when_to_come_again(web: Any) -> None:
    refused = web.post(web.desk(Refusal("overloaded", "128 wait", {"Retry-After": "2"})), json={"text": "a"})
    assert (refused.status_code, refused.headers["retry-after"], refused.json()["code"]) == (429, "2", "overloaded")

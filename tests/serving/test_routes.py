"""HTTP without Ray: what is asked wrongly is answered with a problem document that a program can go by."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest
from PIL import Image

from serving import api, auth, problems, routes
from serving.asked import Asked, Given
from serving.auth import Key, Keys, RateLimit
from serving.bundle.answer import Answer, BundleError
from serving.cascade import UnansweredError
from serving.examples import picture
from serving.observe import Feedback, Quiet
from serving.problems import Refusal
from serving.stepper import Writing, Written
from serving.student import Reads


class Desk:
    """Answers what it is told to."""

    reads = Reads(images_max=1, frames_max=2, hears=False)
    megapixels_max = 1.0

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


def given(answer: Answer, fell_back: bool = False, reason: Any = None) -> Given:
    who = ("teacher", "abc") if fell_back else ("digits", "3")
    return Given(answer, "champion", *who, fell_back, reason)


SEVEN = given(Answer("seven", 0.9))
PNG = base64.b64encode(picture(8)).decode()


def send(desk: Desk, method: str, path: str, **more: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(routes.create(desk), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **more)

    return asyncio.run(go())


def post(desk: Desk, headers: dict[str, str] | None = None, path: str = "/v1/predict", **body: Any) -> httpx.Response:
    return send(desk, "POST", path, headers=headers, **body)


def test_an_answer_says_who_gave_it() -> None:
    answered = post(Desk(SEVEN), json={"text": "what digit is this ?"}).json()
    assert answered.pop("latency_ms") >= 0
    assert len(answered.pop("request_id")) == 32
    assert answered == {
        "text": "seven", "confidence": 0.9, "model": "digits", "version": "3", "arm": "champion", "fell_back": False,
        "reason": None,
    }  # fmt: skip


def test_the_teacher_signs_what_it_answers() -> None:
    answered = post(Desk(given(Answer("nine", 0.8), fell_back=True, reason="timeout")), json={"text": "a"}).json()
    assert (answered["model"], answered["version"], answered["reason"]) == ("teacher", "abc", "timeout")


def test_classifiers_give_label_and_probabilities() -> None:
    classes = Answer("card_lost", 0.7, {"card_lost": 0.7, "top_up": 0.3})
    answered = post(Desk(given(classes)), json={"text": "a"}).json()
    assert (answered["label"], answered["probabilities"]["top_up"]) == ("card_lost", 0.3)


def test_a_retriever_gives_the_entries_in_order() -> None:
    found = Answer("refund", 0.6, {"refund": 0.6, "fees": 0.3, "card": 0.1})
    answered = post(Desk(given(found), task="retrieval"), json={"text": "money back"}).json()
    assert [entry["id"] for entry in answered["ranking"]] == ["refund", "fees", "card"]
    assert answered["ranking"][1] == {"id": "fees", "score": 0.3}


def test_media_reach_the_model_as_the_bytes_they_are() -> None:
    desk, png = Desk(SEVEN), picture(8)
    desk.reads = Reads(images_max=1, frames_max=2, hears=True)
    post(desk, json={"text": "a", "images": [PNG], "audio": "Yg==", "video": [PNG, PNG], "fps": 2})
    post(desk, json={"text": "a"})
    post(desk, json={"images": [PNG]})
    expected: list[dict[str, Any]] = [
        {"text": "a", "images": [png], "audio": b"b", "frames": [png, png], "fps": 2.0},
        {"text": "a", "images": []},
        {"text": "", "images": [png]},
    ]
    assert [asked.item for asked in desk.asked] == expected


def test_a_form_is_read_as_json_is() -> None:
    desk, png = Desk(SEVEN), picture(8) + b"\r\n--x\r\n\x00\xff"  # bytes that look like a boundary stay as they are
    desk.reads = Reads(images_max=2, frames_max=2, hears=True)
    files = [("images", ("a.png", png)), ("images", ("b.png", picture(4))), ("audio", ("s.wav", b"RIFF"))]
    answered = post(desk, data={"text": "wie hei\u00dft es ?", "unit": "u1"}, files=files)
    assert answered.status_code == 200, answered.text
    item = {"text": "wie hei\u00dft es ?", "images": [png, picture(4)], "audio": b"RIFF"}
    assert (desk.asked[0].item, desk.asked[0].unit) == (item, "u1")


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("two words", False), ("x" * 129, False)])
def test_a_callers_request_id_is_kept_when_it_is_short_and_printable(given: str, kept: bool) -> None:
    answered = post(Desk(SEVEN), {"x-request-id": given}, json={"text": "a"}).json()
    assert (answered["request_id"] == given) == kept


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
    ("a large body", {"content": b"x" * (api.BODY_BYTES_MAX + 1), "headers": JSON}, 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_asked_wrongly_gets_a_problem_document(body: dict[str, Any], status: int, code: str) -> None:
    refused = post(Desk(SEVEN), **body)
    document = refused.json()
    assert refused.headers["content-type"] == problems.PROBLEM_TYPE
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
    assert [asked.delay_ms for asked in (*closed.asked, *opened.asked)] == [0.0, 250.0]
    assert post(opened, {api.DELAY_HEADER: "1e9"}, json={"text": "a"}).status_code == 422


def test_a_full_queue_says_when_to_come_again() -> None:
    refused = post(Desk(Refusal("overloaded", "128 wait", {"Retry-After": "2"})), json={"text": "a"})
    assert (refused.status_code, refused.headers["retry-after"], refused.json()["code"]) == (429, "2", "overloaded")


def test_feedback_is_taken_by_request_id() -> None:
    desk = Desk(SEVEN)
    taken = post(desk, path="/v1/feedback", json={"request_id": "abc", "reward": 0.5, "label": "seven"})
    assert (taken.status_code, taken.json()) == (202, {"request_id": "abc", "accepted": True})
    assert (desk.told[0].request_id, desk.told[0].reward, desk.told[0].label) == ("abc", 0.5, "seven")
    for wrong in ({"request_id": "abc"}, {"request_id": "a b", "reward": 1}, {"request_id": "a", "reward": 2}):
        assert post(desk, path="/v1/feedback", json=wrong).status_code == 422


def test_what_is_not_there_is_a_problem_document_too() -> None:
    for method, path, status in (("GET", "/no", 404), ("GET", "/v1/predict", 405), ("PUT", "/v1/feedback", 405)):
        refused = send(Desk(SEVEN), method, path)
        assert (refused.status_code, refused.headers["content-type"]) == (status, problems.PROBLEM_TYPE)
        assert refused.json()["code"] in ("not_found", "method_not_allowed")


CLIENT, CLIENT_KEY = auth.draw("shop", "client", per_minute=2)
ADMIN, ADMIN_KEY = auth.draw("ops", "admin")
OPERATOR_KEY = auth.draw(auth.OPERATOR, "admin")[1]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_client_routes_are_open_without_keys_and_admin_routes_never_are() -> None:
    desk = Desk(SEVEN, keys=[OPERATOR_KEY])
    assert post(desk, json={"text": "a"}).status_code == 200
    refused = post(desk, path="/v1/admin/promote")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert post(desk, bearer("sk-any"), json={"text": "a"}).status_code == 200  # OpenAI's clients always send one
    assert post(desk, bearer("sk-any"), path="/v1/admin/promote").status_code == 401


def test_with_keys_every_route_but_health_needs_one_of_the_role() -> None:
    desk = Desk(SEVEN, keys=[CLIENT_KEY, ADMIN_KEY])
    assert post(desk, json={"text": "a"}).json()["code"] == "unauthorized"
    assert post(desk, bearer(CLIENT), json={"text": "a"}).status_code == 200
    assert post(desk, {"x-api-key": ADMIN}, json={"text": "a"}).status_code == 200
    assert post(desk, bearer(CLIENT), path="/v1/admin/promote").json()["code"] == "forbidden"
    assert post(desk, bearer(ADMIN), path="/v1/admin/split", json={"shares": {"challenger": 0.1}}).status_code == 200
    assert desk.controlled == [("split", {"shares": {"challenger": 0.1}})]
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert send(desk, "GET", path).status_code == 200
    assert send(desk, "GET", "/v1/models").status_code == 401


def test_a_key_that_asks_too_often_is_told_when_to_come_again() -> None:
    desk = Desk(SEVEN, keys=[CLIENT_KEY])
    codes = [post(desk, bearer(CLIENT), json={"text": "a"}) for _ in range(3)]
    assert [answer.status_code for answer in codes] == [200, 200, 429]
    assert codes[2].json()["code"] == "rate_limited"
    assert 25 <= int(codes[2].headers["retry-after"]) <= 32


HELLO = {"model": "any", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}


def test_a_conversation_is_answered_as_openai_does() -> None:
    written = Written(Answer("good day", 0.5), tokens=2, prompt_tokens=4, ended=False)
    desk = Desk(Given(written.answer, "champion", "digits", "3", False, None, written), task="text_generation")
    answered = post(desk, path="/v1/chat/completions", json={**HELLO, "max_tokens": 2, "stop": "x", "user": "u"}).json()
    assert answered["choices"][0]["message"]["content"] == "good day"
    assert answered["choices"][0]["finish_reason"] == "length"
    assert answered["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    assert (answered["raydistill"]["confidence"], answered["model"]) == (0.5, "digits")
    asked = desk.asked[0]
    assert (asked.item["text"], asked.unit, asked.writing) == ("Be brief.\nHi", "u", Writing(2, None, None, ("x",)))


def test_a_stream_carries_the_pieces_then_who_wrote_them() -> None:
    desk = Desk(given(Answer("good day", 0.5)), task="text_generation")
    streamed = post(desk, path="/v1/chat/completions", json={**HELLO, "stream": True}).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["good", "day", None]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["raydistill"]["arm"] == "champion"


def test_what_a_stream_cannot_begin_is_refused_before_it() -> None:
    desk = Desk(UnansweredError("timeout", "none"), task="text_generation")
    assert post(desk, path="/v1/chat/completions", json={**HELLO, "stream": True}).status_code == 503


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"tools": []}, 422), ({"n": 2}, 422), ({"messages": []}, 422), ({"temperature": 9}, 422),
        ({"stop": [""]}, 422),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, 422),
    ],
)  # fmt: skip
def test_options_that_would_be_ignored_are_refused(more: dict[str, Any], status: int) -> None:
    answered = post(Desk(SEVEN, task="text_generation"), path="/v1/chat/completions", json={**HELLO, **more})
    assert (answered.status_code, answered.json()["code"]) == (status, "invalid_request")


def test_a_model_that_writes_nothing_has_no_conversations() -> None:
    desk = Desk(SEVEN, task="text_classification")
    assert post(desk, path="/v1/chat/completions", json=HELLO).json()["code"] == "not_found"


def test_every_example_of_the_document_works_sent_back_unchanged() -> None:
    desk = Desk(SEVEN, task="text_generation", keys=[ADMIN_KEY])
    document = send(desk, "GET", "/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            answered = send(desk, method.upper(), path, json=body, headers=bearer(ADMIN))
            assert answered.status_code < 300, (path, answered.text)
            assert str(answered.status_code) in operation["responses"]

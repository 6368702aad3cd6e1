"""HTTP without Ray: what is answered, how media reach the model, and a document whose examples work."""

import base64
from typing import Any

import pytest

from serving.bundle.answer import Answer
from serving.seams import problems
from serving.students.student import Reads
from serving.web import auth
from serving.web.examples import picture

PNG = base64.b64encode(picture(8)).decode()
ADMIN, ADMIN_KEY = auth.draw("ops", "admin")


def test_an_answer_says_who_gave_it(web: Any) -> None:
    answered = web.post(web.desk(web.seven), json={"text": "what digit is this ?"}).json()
    assert answered.pop("latency_ms") >= 0
    assert len(answered.pop("request_id")) == 32
    assert answered == {
        "text": "seven", "confidence": 0.9, "model": "digits", "version": "3", "arm": "champion", "fell_back": False,
        "reason": None,
    }  # fmt: skip


def test_the_teacher_signs_what_it_answers(web: Any) -> None:
    answered = web.post(
        web.desk(web.given(Answer("nine", 0.8), fell_back=True, reason="timeout")), json={"text": "a"}
    ).json()
    assert (answered["model"], answered["version"], answered["reason"]) == ("teacher", "abc", "timeout")


def test_classifiers_give_label_and_probabilities(web: Any) -> None:
    classes = Answer("card_lost", 0.7, {"card_lost": 0.7, "top_up": 0.3})
    answered = web.post(web.desk(web.given(classes)), json={"text": "a"}).json()
    assert (answered["label"], answered["probabilities"]["top_up"]) == ("card_lost", 0.3)


def test_a_retriever_gives_the_entries_in_order(web: Any) -> None:
    found = Answer("refund", 0.6, {"refund": 0.6, "fees": 0.3, "card": 0.1})
    answered = web.post(web.desk(web.given(found), task="retrieval"), json={"text": "money back"}).json()
    assert [entry["id"] for entry in answered["ranking"]] == ["refund", "fees", "card"]
    assert answered["ranking"][1] == {"id": "fees", "score": 0.3}


def test_media_reach_the_model_as_the_bytes_they_are(web: Any) -> None:
    desk, png = web.desk(web.seven), picture(8)
    desk.reads = Reads(images_max=1, frames_max=2, hears=True)
    web.post(desk, json={"text": "a", "images": [PNG], "audio": "Yg==", "video": [PNG, PNG], "fps": 2})
    web.post(desk, json={"text": "a"})
    web.post(desk, json={"images": [PNG]})
    expected: list[dict[str, Any]] = [
        {"text": "a", "images": [png], "audio": b"b", "frames": [png, png], "fps": 2.0},
        {"text": "a", "images": []},
        {"text": "", "images": [png]},
    ]
    assert [asked.item for asked in desk.asked] == expected


def test_a_form_is_read_as_json_is(web: Any) -> None:
    desk, png = (
        web.desk(web.seven),
        picture(8) + b"\r\n--x\r\n\x00\xff",
    )  # bytes that look like a boundary stay as they are
    desk.reads = Reads(images_max=2, frames_max=2, hears=True)
    files = [("images", ("a.png", png)), ("images", ("b.png", picture(4))), ("audio", ("s.wav", b"RIFF"))]
    answered = web.post(desk, data={"text": "wie hei\u00dft es ?", "unit": "u1"}, files=files)
    assert answered.status_code == 200, answered.text
    item = {"text": "wie hei\u00dft es ?", "images": [png, picture(4)], "audio": b"RIFF"}
    assert (desk.asked[0].item, desk.asked[0].unit) == (item, "u1")


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("two words", False), ("x" * 129, False)])
def test_a_callers_request_id_is_kept_when_it_is_short_and_printable(web: Any, given: str, kept: bool) -> None:
    answered = web.post(web.desk(web.seven), {"x-request-id": given}, json={"text": "a"}).json()
    assert (answered["request_id"] == given) == kept


def test_feedback_is_taken_by_request_id(web: Any) -> None:
    desk = web.desk(web.seven)
    taken = web.post(desk, path="/v1/feedback", json={"request_id": "abc", "reward": 0.5, "label": "seven"})
    assert (taken.status_code, taken.json()) == (202, {"request_id": "abc", "accepted": True})
    assert (desk.told[0].request_id, desk.told[0].reward, desk.told[0].label) == ("abc", 0.5, "seven")
    for wrong in ({"request_id": "abc"}, {"request_id": "a b", "reward": 1}, {"request_id": "a", "reward": 2}):
        assert web.post(desk, path="/v1/feedback", json=wrong).status_code == 422


def test_what_is_not_there_is_a_problem_document_too(web: Any) -> None:
    for method, path, status in (("GET", "/no", 404), ("GET", "/v1/predict", 405), ("PUT", "/v1/feedback", 405)):
        refused = web.send(web.desk(web.seven), method, path)
        assert (refused.status_code, refused.headers["content-type"]) == (status, problems.PROBLEM_TYPE)
        assert refused.json()["code"] in ("not_found", "method_not_allowed")


def test_every_example_of_the_document_works_sent_back_unchanged(web: Any) -> None:
    desk = web.desk(web.seven, task="text_generation", keys=[ADMIN_KEY])
    document = web.send(desk, "GET", "/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            answered = web.send(desk, method.upper(), path, json=body, headers={"authorization": f"Bearer {ADMIN}"})
            assert answered.status_code < 300, (path, answered.text)
            assert str(answered.status_code) in operation["responses"]

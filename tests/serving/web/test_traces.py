"""Traces of requests: a span for each below its caller's, and below it who was asked."""

from collections.abc import Callable
from typing import Any

from cluster.recipe.serving import ServingSection
from serving.bundle.answer import Answer
from serving.fallback import cascade
from serving.fallback.guard import ArmGuard, Counters, TeacherGuard
from serving.web.asked import Asked, Given

ABOVE = f"00-{'a1' * 16}-{'b2' * 8}-01"
Spans = Callable[[], dict[str, dict[str, Any]]]


def deferring(web: Any) -> Any:
    """A desk whose student is unsure, so that its teacher answers."""
    section = ServingSection(teacher_share=1.0)
    guard = ArmGuard(section, TeacherGuard(section), Counters(lambda _: None, lambda _: None))

    class Deferring(web.desk):  # type: ignore[misc]
        async def answer(self, asked: Asked) -> Given:
            outcome = await cascade.answer(unsure, sure, cascade.Policy(500, 2000, 0.5), guard)
            return Given(outcome.answer, "champion", "teacher", "abc", outcome.fell_back, outcome.reason)

    return Deferring(web.seven)


async def unsure() -> Answer:
    return Answer("one", 0.2)


async def sure() -> Answer:
    return Answer("nine", 0.9)


def test_a_requests_span_continues_its_callers_trace_and_holds_those_of_the_models_that_were_asked(
    web: Any, spans: Spans
) -> None:
    answered = web.post(deferring(web), {"traceparent": ABOVE}, json={"text": "what digit is this ?"})
    assert (answered.status_code, answered.json()["fell_back"]) == (200, True)
    found = spans()
    assert set(found) == {"POST /v1/predict", "student", "teacher"}
    request = found["POST /v1/predict"]
    assert request["parent_id"] == "0x" + "b2" * 8
    assert request["attributes"]["http.response.status_code"] == 200
    for name in ("student", "teacher"):
        assert found[name]["parent_id"] == request["context"]["span_id"]
        assert found[name]["context"]["trace_id"] == "0x" + "a1" * 16


def test_without_a_place_for_them_there_are_no_spans(web: Any, monkeypatch: Any) -> None:
    from cluster import tracing

    monkeypatch.delenv(tracing.VARIABLE, raising=False)
    assert tracing.of_requests()["tracing"] is False
    assert web.post(deferring(web), {"traceparent": ABOVE}, json={"text": "what digit is this ?"}).status_code == 200

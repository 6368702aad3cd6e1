"""The teacher's process is killed again and again: students answer on, and what they would have handed over is theirs,
marked; once it is left alone it is asked again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.bundle import predict

pytestmark = pytest.mark.slow
TEACHER = b"ray::ServeReplica:teacher:"
TOTAL_MS, BUSY_MS = 3000.0, 500.0  # the second: HAProxy, the client, and a machine that others use, too
BACK_S = 120.0


@pytest.fixture(scope="module")
def confidences(bundle: Path, questions: list[Any]) -> list[float]:
    """How sure the student is of each question; the scheme `exact` gives the same bits everywhere."""
    return [answer.confidence for answer in predict.load(bundle).predict([one.item for one in questions])]


@pytest.fixture(scope="module")
def live(serving: Callable[..., Any], confidences: list[float]) -> Iterator[Any]:
    """A service whose student is sure enough of half of the questions."""
    low, high = sorted(confidences)[len(confidences) // 2 - 1 :][:2]
    knobs = (f"confidence_min={(low + high) / 2}", "student_ms=1500.0", f"total_ms={TOTAL_MS}", "hedge_share=0.0")
    with serving(*knobs) as live:
        yield live


def test_while_the_teacher_is_down_students_answer_on_and_deferrals_are_theirs_and_marked(
    live: Any, questions: list[Any], confidences: list[float]
) -> None:
    middle = sorted(confidences)[len(confidences) // 2]

    def ask(client: httpx.Client) -> list[tuple[bool, bool, str | None]]:
        """Of each question: was the student sure, did it fall back, and why."""
        found = []
        for question, own in zip(questions, confidences, strict=True):
            began = time.perf_counter()
            answered = client.post("/v1/predict", json=question.body)
            assert (time.perf_counter() - began) * 1000 < TOTAL_MS + BUSY_MS
            assert answered.status_code == 200, answered.text
            said = answered.json()
            found.append((own >= middle, said["fell_back"], said["reason"]))
            if not said["fell_back"]:
                assert (said["model"], said["confidence"]) == ("visual", own)  # the student's own bits
        return found

    with httpx.Client(base_url=live.url, timeout=30) as client:
        before = ask(client)
        assert set(before) == {(True, False, None), (False, True, "low_confidence")}
        with live.down(TEACHER):
            for _ in range(3):  # by then the teacher's breaker is open, and nobody waits for it any more
                assert set(ask(client)) == {(True, False, None), (False, False, "low_confidence")}
            began = time.perf_counter()
            ask(client)
            assert (time.perf_counter() - began) / len(questions) < TOTAL_MS / 1000 / 2
        until = time.monotonic() + BACK_S
        while set(now := ask(client)) != set(before):
            assert time.monotonic() < until, now
            time.sleep(1)

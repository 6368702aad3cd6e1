"""What is told of a request once its answer is known: who signs it, what became of it, and its record."""

from __future__ import annotations

import time

from cluster import metrics
from serving.bundle.answer import Answer
from serving.deployment.arm import LiveArm
from serving.deployment.served import TEACHER
from serving.fallback import cascade
from serving.seams.observe import Outcome, Record
from serving.students.stepper import Writing, Written
from serving.web.asked import Asked


class Text:
    """A text as it is streamed: its pieces, then what was written."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.written: Written | None = None

    def took(self, piece: str | Written) -> Answer:
        """Remember a piece; as an answer, it is certain: how sure a text is, is known at its end."""
        if isinstance(piece, Written):
            self.written = piece
            return piece.answer
        self.pieces.append(piece)
        return Answer(piece, 1.0)

    def outcome(self, begun: cascade.Outcome) -> cascade.Outcome:
        """The whole text after how it began. Where the teacher wrote it, or the caller left before its end, there is no
        answer of the student's that could be compared."""
        if begun.fell_back:
            return cascade.Outcome(begun.answer, True, begun.reason, None)
        if self.written is None:
            return cascade.Outcome(Answer("".join(self.pieces), 1.0), False, begun.reason, None)
        return cascade.Outcome(self.written.answer, False, begun.reason, self.written.answer)


def told(outcome: cascade.Outcome) -> Outcome:
    """What became of a request that was answered."""
    return "teacher" if outcome.fell_back else "student" if outcome.reason is None else "student_anyway"


def signed(arm: LiveArm, outcome: cascade.Outcome | None, teacher: str) -> tuple[str, str]:
    """Model and version that answered; the arm's own where nobody did."""
    fell = outcome is not None and outcome.fell_back
    return (TEACHER, teacher) if fell else (arm.arm.model, arm.arm.version)


def record(
    asked: Asked, arm: LiveArm, outcome: cascade.Outcome | None, how: Outcome, ms: float, teacher: str
) -> Record:
    """One request to a model and what became of it; `ms` is to the first piece where it was streamed."""
    model, version = signed(arm, outcome, teacher)
    own_terms = asked.writing == Writing() or arm.spec["task"] != "text_generation"
    return Record(
        request_id=asked.request_id, at_ms=time.time_ns() // 1_000_000, route=asked.route, unit=asked.unit,
        arm=arm.arm.name, model=model, version=version, item=asked.item, answer=outcome.answer if outcome else None,
        student=outcome.student if outcome else None, outcome=how, fell_back=outcome is not None and outcome.fell_back,
        reason=outcome.reason if outcome else None, latency_ms=ms, comparable=own_terms,
    )  # fmt: skip


class Breakers:
    """The gauge of which breakers are open, set when that changes: setting it takes 10 us, and each request looks at
    two."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], bool] = {}

    def note(self, model: str, target: str, is_open: bool) -> None:
        """What the breaker of an arm or of the teacher (`target`) was found to be."""
        if self._told.get((model, target)) != is_open:
            self._told[model, target] = is_open
            metrics.gauge("breaker_open").set(float(is_open), tags={"model": model, "target": target})

"""A teacher that fails now and then, a row that poisons its batch: all others are answered as if nothing had been."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.data import tally
from jobs.data.answers import ANSWER_SCHEMA, Answerer, labels_of, with_labels
from serving.teachers import Failure, Reply, Teacher


class Unsteady:
    """A real teacher on a bad line: every `every`-th call raises, and so does every call with the `poison` prompt."""

    def __init__(self, teacher: Teacher, every: int = 0, poison: str | None = None, fails: str | None = None) -> None:
        self.teacher, self.every, self.poison, self.fails, self.calls = teacher, every, poison, fails, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.teacher, name)

    def prompt(self, item: Mapping[str, Any]) -> Any:
        return item["text"], self.teacher.prompt(item)

    def complete(self, prompts: Sequence[Any], temperature: float, seeds: Sequence[int]) -> list[Reply | Failure]:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            raise ConnectionError("the line went dead")
        if any(text == self.poison for text, _ in prompts):
            raise FloatingPointError("no number")
        replies = self.teacher.complete([prompt for _, prompt in prompts], temperature, seeds)
        return [
            Failure("budget", "nothing left", 0) if text == self.fails else reply
            for (text, _), reply in zip(prompts, replies, strict=True)
        ]


def named(requests: pa.Table, row: int) -> str:
    """A prompt that no other row has."""
    values = requests["prompt"].to_pylist()
    return f"{values[row]} {row}"


def renamed(requests: pa.Table, row: int) -> pa.Table:
    values = requests["prompt"].to_pylist()
    values[row] = named(requests, row)
    at = requests.schema.get_field_index("prompt")
    return requests.set_column(at, requests.schema.field("prompt"), pa.array(values))


SAID = ["sample_id", "response", "tokens", "status"]


def test_a_teacher_that_fails_every_fifth_call_gives_the_answers_of_one_that_never_does(
    answerer: tuple[Answerer, pa.Table],
) -> None:
    actor, requests = answerer
    undisturbed = pa.concat_tables([actor(requests.slice(at, 8)) for at in range(0, len(requests), 8)])
    actor.teacher = Unsteady(actor.teacher, every=5)
    disturbed = pa.concat_tables([actor(requests.slice(at, 8)) for at in range(0, len(requests), 8)])
    assert disturbed.select(SAID).equals(undisturbed.select(SAID))
    assert disturbed["confidence"].to_pylist() == pytest.approx(undisturbed["confidence"].to_pylist(), abs=1e-5)
    assert max(disturbed["attempts"].to_pylist()) > 1 == max(undisturbed["attempts"].to_pylist())


def test_the_one_row_that_makes_the_teacher_raise_is_set_aside_after_all_its_attempts(
    answerer: tuple[Answerer, pa.Table],
) -> None:
    actor, requests = answerer
    undisturbed = actor(requests).to_pylist()
    actor.teacher = Unsteady(actor.teacher, poison=named(requests, 21))
    found = actor(renamed(requests, 21)).to_pylist()
    bad = found.pop(21)
    assert (bad["status"], bad["reason"], bad["detail"]) == ("rejected", "raised_FloatingPointError", "no number")
    assert bad["attempts"] == 6 + actor.section.attempts  # batches of 64, 32, ... 2 it was in, then alone
    assert [row["response"] for row in found] == [row["response"] for row in undisturbed if row is not undisturbed[21]]


def test_a_failure_of_one_row_is_its_dead_letter_with_the_teachers_reason(answerer: tuple[Answerer, pa.Table]) -> None:
    actor, requests = answerer
    actor.teacher = Unsteady(actor.teacher, fails=named(requests, 3))
    row = actor(renamed(requests, 3)).to_pylist()[3]
    assert (row["status"], row["reason"], row["attempts"], row["logits"]) == ("rejected", "budget", 0, None)


def test_a_batch_of_several_temperatures_is_answered_at_each(answerer: tuple[Answerer, pa.Table]) -> None:
    actor, requests = answerer
    at = requests.schema.get_field_index("temperature")
    mixed = requests.set_column(at, requests.schema.field("temperature"), pa.array([0.0, 1.0] * 32, pa.float32()))
    warm = requests.set_column(at, requests.schema.field("temperature"), pa.array([1.0] * 64, pa.float32()))
    cold, hot, both = (actor(table)["response"].to_pylist() for table in (requests, warm, mixed))
    assert both[::2] == cold[::2] and both[1::2] == hot[1::2]


def test_answered_rows_come_back_from_samples_and_labels(answerer: tuple[Answerer, pa.Table]) -> None:
    actor, requests = answerer
    answers = actor(requests)
    labels = labels_of(answers)
    again = with_labels(answers.select([*requests.column_names, "response", "confidence", "entropy", "status", "reason",
                                        "attempts"]), labels)  # fmt: skip
    for field in ANSWER_SCHEMA:
        assert again[field.name].to_pylist() == answers[field.name].to_pylist(), field.name


def test_progress_says_rate_time_left_tokens_and_cost(tmp_path: Path) -> None:
    before = {"rows": 100.0, "rejected": 0.0, "tokens": 500.0, "cost": 0.0}
    now = {"rows": 300.0, "rejected": 2.0, "tokens": 1500.0, "cost": 0.25}
    seen = tally.line(now, before, 10.0, 500)
    assert (seen["step"], seen["steps"]) == (300, 500)
    assert seen["stage"] == "20.0 rows/s, 100 tokens/s, 10 s left, cost 0.25, 2 set aside"
    with tally.Meter(tmp_path / "tally", tmp_path / tally.PROGRESS, 4):
        for _ in range(2):
            tally.Tally(str(tmp_path / "tally")).add(rows=2)
    assert json.loads((tmp_path / tally.PROGRESS).read_text())["step"] == 4

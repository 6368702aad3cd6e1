"""Shifts of inputs and falls of quality are found, and traffic that stays as it is raises no alarm."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recipe import DriftSection, ExperimentSection
from serving.experiments.events import Batch, Judged
from serving.monitoring.drift import Fall, Inputs, Quality, inputs, projection, psi
from serving.monitoring.judge import Judge
from serving.seams.observe import CHAMPION, Arm

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), min_size=1)


def judged(good: float, number: int = 0, confidence: float = 0.9) -> Judged:
    return Judged(f"r{number}", "agreement", good, confidence, 1000 + number)


@given(COUNTS, COUNTS)
def test_the_index_is_never_negative_and_the_same_both_ways(a: dict[str, int], b: dict[str, int]) -> None:
    assert psi(a, b) >= 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, a) == pytest.approx(0)


def test_the_index_is_that_of_the_formula() -> None:
    assert psi({"a": 5000, "b": 5000}, {"a": 7000, "b": 3000}) == pytest.approx(
        0.2 * np.log(1.4) - 0.2 * np.log(0.6), rel=1e-3
    )


def test_two_samples_of_one_distribution_stay_far_below_the_alarm() -> None:
    random, section = np.random.default_rng(0), DriftSection()
    found = []
    for _ in range(50):
        a, b = (Counter(map(str, random.integers(0, 10, 500).tolist())) for _ in range(2))
        found.append(psi(a, b))
    assert max(found) < section.psi / 2


def test_a_request_becomes_buckets_without_content() -> None:
    row = inputs({"text": "what digit is this ?", "images": [b"x" * 900]}, "seven", 0.97)
    assert row == {"length": "5", "pictures": "1", "words": projection("this IS what digit ?"), "picture_bytes": "10",
                   "confidence": "9", "answer": "seven"}  # fmt: skip
    assert set(inputs({"text": ""}, None, None)) == {"length", "pictures", "words"}
    assert inputs({"text": "a"}, "b", 1.0)["confidence"] == "9"
    heard = inputs({"text": "a", "audio": b"x" * 4000, "frames": [b"y" * 100, b"y" * 300], "fps": 2.0}, None, None)
    media = {"sound_bytes": "12", "frame_bytes": "8", "frames": "2"}
    assert heard == {"length": "1", "pictures": "0", "words": projection("a")} | media
    assert inputs({"text": "a", "audio": None, "frames": None}, None, None) == inputs({"text": "a"}, None, None)


def test_longer_questions_and_unsure_answers_are_seen_and_the_rest_stays_quiet() -> None:
    section = DriftSection(reference=200, window=200)
    watched, random = Inputs(section), np.random.default_rng(1)

    def ask(words: int, sure: float) -> None:
        text = " ".join(random.choice(["red", "green", "blue", "one", "two"], words))
        confidence = float(np.clip(random.normal(sure, 0.05), 0, 1))
        watched.add(inputs({"text": text}, str(random.integers(5)), confidence))

    for _ in range(400):
        ask(5, 0.9)
    assert max(watched.psi().values()) < section.psi
    for _ in range(200):
        ask(40, 0.5)
    found = watched.psi()
    assert min(found["length"], found["confidence"]) > section.psi
    assert found["answer"] < section.psi


def test_an_answer_that_was_never_there_is_seen() -> None:
    watched = Inputs(DriftSection(reference=100, window=100))
    for number in range(200):
        watched.add({"answer": str(number % 3)})
    for number in range(100):
        watched.add({"answer": f"new {number}"})
    assert watched.psi()["answer"] > 1


def test_inputs_are_compared_every_check_s_and_a_new_champion_is_compared_at_once() -> None:
    judge = Judge(ExperimentSection(), DriftSection(reference=50, window=50, check_s=2.0), {})

    def tick(now_s: float, answer: str, rows: int, version: str = "1") -> list[str]:
        arms = [Arm(CHAMPION, "m", version, 1.0)]
        judge.take(Batch("g", int(now_s * 10), arms, int(version), inputs=[{"answer": answer}] * rows), now_s)
        return [one.metric for order in judge.decide(now_s, 0) for one in order.verdicts]

    assert tick(0.0, "a", 100) == [] and judge.psi == {"answer": pytest.approx(0)}
    assert tick(1.5, "b", 50) == [] and judge.psi == {"answer": pytest.approx(0)}
    assert tick(2.0, "b", 1) == ["psi.answer"] and judge.psi["answer"] > 1
    assert tick(4.0, "b", 1) == []  # said once
    assert tick(4.5, "a", 100, version="2") == [] and judge.psi == {"answer": pytest.approx(0)}


def falls(quality: Quality, rate: float, rows: int, seed: int = 0) -> list[Fall]:
    random = np.random.default_rng(seed)
    found = (quality.add(judged(float(random.random() < rate), number)) for number in range(rows))
    return [one for one in found if one is not None]


def test_a_drop_of_more_than_5_percent_over_500_judged_requests_is_an_alarm() -> None:
    quality = Quality("agreement", DriftSection(), 0.95)
    assert falls(quality, 0.85, 499) == []
    (fall,) = falls(quality, 0.85, 1)
    assert quality.alarm(fall)
    assert (fall.rows, fall.reference) == (500, 0.95)
    assert fall.drop == pytest.approx(1 - fall.value / 0.95)


def test_quality_that_stays_as_it_was_raises_no_alarm_in_20_windows() -> None:
    alarms = 0
    for seed in range(50):
        quality = Quality("agreement", DriftSection(), 0.95)
        alarms += any(quality.alarm(fall) for fall in falls(quality, 0.95, 10_000, seed))
    assert alarms == 0


def test_without_a_value_of_promotion_the_first_window_is_the_reference() -> None:
    quality = Quality("agreement", DriftSection(window=50), None)
    first, second = falls(quality, 1.0, 50) + falls(quality, 0.0, 50)
    assert (first.drop, second.drop, quality.alarm(second)) == (0.0, 1.0, True)


def test_the_hardest_requests_are_named_surely_wrong_first() -> None:
    quality = Quality("agreement", DriftSection(window=50, hard_samples=3), 1.0)
    rows = [judged(1.0, number, 0.9) for number in range(47)]
    rows += [judged(0.0, 100, 0.2), judged(0.0, 101, 0.99), judged(1.0, 102, 0.3)]
    (fall,) = [one for one in map(quality.add, rows) if one]
    assert list(fall.hard) == ["r101", "r100", "r102"]

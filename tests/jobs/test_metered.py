"""The numbers of a run: read from what steps leave, told once, with nothing that hangs or fails unseen."""

import json
from pathlib import Path

import pytest

from cluster import metrics
from cluster.errors import StepFailed
from jobs.data.tally import Tally
from jobs.metered import Look, Metered, reason_of, told
from jobs.training import health

RUN = {"run": "digits-1"}


def training(folder: Path, step: int, loss: float | None) -> None:
    seen = {"stage": "soft", "step": step, "steps": 100, "loss": loss, "terms": {"kl": [0.4, 0.7], "mse": [0.2, 0.3]}}
    (folder / "student.progress").write_text(json.dumps(seen))


def test_a_training_shows_its_terms_its_share_and_how_long_it_stands_still(tmp_path: Path) -> None:
    look = Look("digits-1", "distill", [tmp_path])
    training(tmp_path, 50, 0.6)
    part = {"run": "digits-1", "step": "distill", "part": "student"}
    first = look.values(100.0)
    assert ("step_done_share", part, 0.5) in first
    assert ("step_still_s", part, 0.0) in first
    labels = {"run": "digits-1", "part": "student", "stage": "soft"}
    assert {("loss", labels["stage"], label["term"], value) for name, label, value in first if name == "loss"} == {
        ("loss", "soft", "total", 0.6), ("loss", "soft", "kl", 0.4), ("loss", "soft", "mse", 0.2),
    }  # fmt: skip
    assert ("loss_share", {**labels, "term": "kl"}, 0.7) in first
    assert ("step_still_s", part, 30.0) in look.values(130.0)
    training(tmp_path, 51, None)
    moved = look.values(131.0)
    assert ("step_still_s", part, 0.0) in moved
    assert "loss" not in {name for name, _, _ in moved}


def test_rows_and_tokens_a_second_are_those_since_the_look_before(tmp_path: Path) -> None:
    folder = tmp_path / "round-0" / "tally"
    folder.mkdir(parents=True)
    look, tally = Look("digits-1", "generate", [tmp_path]), Tally(str(folder))
    tally.add(rows=100, tokens=1000)
    assert [name for name, _, _ in look.values(10.0)] == ["step_seconds"]
    tally.add(rows=50, tokens=300)
    rates = {name: value for name, _, value in look.values(20.0) if name.endswith("_per_s")}
    assert rates == {"rows_per_s": 5.0, "tokens_per_s": 30.0}


def test_a_file_that_is_being_replaced_is_left_for_the_next_look(tmp_path: Path) -> None:
    (tmp_path / "student.progress").write_text('{"stage": "so')
    assert [name for name, _, _ in Look("r", "distill", [tmp_path]).values(1.0)] == ["step_seconds"]


def test_finished_steps_tell_what_became_of_their_rows() -> None:
    samples = told("digits-1", "samples", {"requested": 10, "answered": 8, "reused": 5, "dead_letters": {"timeout": 2}})
    assert ("cache_hit_share", RUN, 0.5) in samples
    assert ("rows", {**RUN, "step": "generate", "outcome": "timeout"}, 2.0) in samples
    curated = told("digits-1", "curated", {"in": 8, "kept": 6, "reasons": {"duplicate": 2}})
    assert ("kept_share", RUN, 0.75) in curated
    assert told("digits-1", "bundle", {}) == []


@pytest.mark.parametrize("status", health.ADVICE)
def test_a_training_that_was_given_up_says_why(status: str) -> None:
    assert reason_of(StepFailed("student", "no more", health.ADVICE[status])) == status
    assert reason_of(StepFailed("student", "no more")) == "other"
    assert reason_of(OSError("disk")) == "other"


def test_every_value_has_the_labels_its_metric_declares(tmp_path: Path) -> None:
    training(tmp_path, 1, 0.5)
    look = Look("digits-1", "distill", [tmp_path])
    facts = {"requested": 1, "answered": 1, "reused": 0, "dead_letters": {}}
    for name, labels, _ in [*look.values(1.0), *told("r", "samples", facts)]:
        assert set(labels) == set(metrics.METRICS[name].labels), name


class Heard:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, verb: str, scratch: list[str]) -> None:
        self.heard.append(f"started {verb}")

    def finished(self, verb: str, artifacts: list[object], seconds: float, reused: bool) -> None:
        self.heard.append(f"finished {verb}")


@pytest.mark.usefixtures("ray_cluster")
def test_it_passes_on_what_it_hears_and_ends_its_thread_whatever_happens(tmp_path: Path) -> None:
    inner = Heard()
    with Metered(inner, "digits-1") as watcher:
        watcher.started("fit", [str(tmp_path)])
        watcher.finished("fit", [], 1.0, False)
    with pytest.raises(StepFailed), Metered(inner, "digits-1") as watcher:
        watcher.started("generate", [str(tmp_path)])
        raise StepFailed("generate", "no teacher")
    assert inner.heard == ["started fit", "finished fit", "started generate"]
    assert watcher._thread is None

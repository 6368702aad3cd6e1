"""The training curve in MLflow and TensorBoard, and what is shown of a running training."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.recipe import Recipe
from cluster.registry import Registry
from jobs.training import curves, health
from jobs.training.curves import Curves, Target
from jobs.training.loop import Job
from jobs.training.runner import run_local


def target(store: Path, *tools: str) -> Target:
    return Target(tools, str(store), None, "digits", "digits-1234", "distill")


def events(folder: Path) -> dict[str, list[int]]:
    """Tag -> steps of a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [event.step for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


@pytest.mark.slow  # MLflow makes its tables first
def test_a_training_leaves_its_curve_in_both_and_a_resumed_one_goes_on_there(
    tiny_digits: Callable[..., Recipe], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = make_job(tiny_digits(), curve_to=target(tmp_path, "mlflow", "tensorboard"))
    run_local(job, tmp_path / "run")
    again = Curves(job.curve_to)
    again.point(99, {"fit/loss": 0.5})
    again.close()
    with Registry.beside(tmp_path).session() as client:
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert [run.info.run_name for run in runs] == ["digits-1234 distill"]
        assert [one.step for one in client.get_metric_history(runs[0].info.run_id, "fit/loss")] == [0, 7, 99]
    seen = events(tmp_path / "logs" / "digits-1234" / "distill")
    assert seen["fit/loss/cross_entropy"] == seen["fit/share/cross_entropy"] == seen["fit/rate"] == [0, 7]
    assert seen["fit/validation/exact_match"] == [8]


def test_points_do_not_wait_for_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def slow(_: Target) -> curves.Write:
        time.sleep(0.3)
        return lambda points, more: written.extend(point.step for point in points)

    monkeypatch.setitem(curves.TOOLS, "tensorboard", slow)
    curve = Curves(target(tmp_path, "tensorboard"))
    began = time.perf_counter()
    for step in range(50):
        curve.point(step, {"s/loss": 1.0})
    assert time.perf_counter() - began < 0.2
    curve.close()
    assert written == list(range(50))


def test_a_tool_that_fails_is_told_of_once_and_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Target) -> curves.Write:
        raise ConnectionError("no server answers")

    monkeypatch.setitem(curves.TOOLS, "mlflow", broken)
    with caplog.at_level(logging.WARNING):
        curve = Curves(target(tmp_path, "mlflow"))
        curve.point(0, {"s/loss": 1.0})
        curve.close()
    assert [record.getMessage() for record in caplog.records] == ["no more curve to mlflow: no server answers"]


def test_figures_are_named_by_stage_and_term() -> None:
    where = health.Where("soft_labels", 7, {"forward_kl": 0.4, "hidden_mse": 0.1}, 0.001)
    assert curves.figures(where, [0.7, 0.3], 2.5) == {
        "soft_labels/loss/forward_kl": 0.4, "soft_labels/loss/hidden_mse": 0.1, "soft_labels/share/forward_kl": 0.7,
        "soft_labels/share/hidden_mse": 0.3, "soft_labels/loss": 0.5, "soft_labels/rate": 0.001,
        "soft_labels/gradient_norm": 2.5,
    }  # fmt: skip

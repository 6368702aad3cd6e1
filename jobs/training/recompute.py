"""Activation checkpointing: layers are computed again in the backward pass, where a network's parts can do that."""

from __future__ import annotations

from typing import Any

from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from jobs import tasks


def parts(network: nn.Module) -> list[Any]:
    """The outermost transformers models within a network that know how; empty where there are none."""
    from transformers import PreTrainedModel

    found: list[Any] = []
    for name, module in network.named_modules():
        able = isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing
        if able and not any(name.startswith(prefix) for prefix, _ in found):
            found.append((f"{name}." if name else "", module))
    return [module for _, module in found]


def enable(network: nn.Module) -> None:
    """Let every part recompute while it trains; evaluation stays as it is."""
    for part in parts(network):
        part.activation_checkpointing_enable()


def check(recipe: Recipe, at: str, section: ModelSection) -> None:
    """Raises RecipeError where the network of `section` has no part that can (it is built for that, untrained)."""
    network = tasks.of(recipe).build(section, recipe.seed)
    if not parts(network):
        raise RecipeError(
            f"{at}.engine.activation_checkpointing: this network cannot compute its layers again",
            got=section.architecture,
            expected="an architecture made of transformers' models",
            hint=f"{at}.engine.micro_batch saves memory with any network",
        )

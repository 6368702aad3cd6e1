"""Which teachers and students a picture recipe may name, and what names their weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from cluster.errors import RecipeError
from cluster.recipe import ModelSection
from jobs.tasks import text_models
from serving.bundle.image_classes import Frame
from serving.models import image_nets, pretrained_pictures, weights

PRETRAINED = "pretrained"  # the architecture whose sizes come from a folder of transformers


def check(name: str, section: ModelSection) -> None:
    """Refuse a model that is no picture classifier. `name` is "teacher" or "student".

    Raises RecipeError: architecture, sizes, weights that are missing, or where there should be none.
    """
    if section.architecture not in image_nets.BACKBONES:
        known = ", ".join(image_nets.BACKBONES)
        raise RecipeError(f"{name}.architecture", got=section.architecture, expected=known)
    if section.architecture == PRETRAINED:
        if section.weights is None or section.params:
            got, expected = section.params or "weights null", "weights (a folder or hub id) and no params"
            raise RecipeError(f"{name}: the sizes of {PRETRAINED} come from its weights", got=got, expected=expected)
        weights.locate(section.weights)
        return
    if section.weights is not None:
        what = f"{name}.weights: {section.architecture} is made from its sizes"
        raise RecipeError(what, got=section.weights, expected="null", hint=f"{name}.architecture: {PRETRAINED}")
    image_nets.BACKBONES[section.architecture].params.parse(section.params, at=f"{name}.params")


def identity(section: ModelSection) -> dict[str, str] | None:
    """File -> sha256 (64 hex) of weights that are files here, else the hub id; None for a network without weights."""
    return None if section.weights is None else text_models.identity(section.weights)


def build(section: ModelSection, frame: Frame, classes: int, seed: int) -> nn.Module:
    """A network of the section's sizes with a fresh seeded head; pretrained where the section has weights."""
    if section.weights is None:
        return image_nets.build(section.architecture, section.params, frame, classes, seed)
    params: dict[str, Any] = pretrained_pictures.params_of(section.weights)
    network = image_nets.build(section.architecture, params, frame, classes, seed)
    pretrained_pictures.take(network.backbone, section.weights)
    return network

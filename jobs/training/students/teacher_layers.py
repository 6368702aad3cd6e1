"""A shallower student: some of the teacher's layers, in their order, with its embeddings and head.

Of a multimodal network the decoder gets shallower, and its towers for pictures and sounds come along whole.

Which ones: a given list, evenly spaced, or those that change the state most. A layer whose output is nearly its input
can go with the least harm (block influence, arXiv 2403.03853, equation 1, there by cosine); here likeness is linear CKA
(arXiv 1905.00414, section 3) or the correlation of features, over training rows.

Shape legend: Q scored positions, H hidden size.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from cluster.errors import MismatchError
from cluster.recipe.base import Section
from jobs.training.stages.layer_map import linear_cka
from jobs.training.students.shape import Shape
from jobs.training.students.source import Source, rebuilt


class Params(Section):
    """Parameters of start `teacher_layers`."""

    layers: list[int] = Field([], description="the teacher's layers to keep, 1 is the first; []: `count` of them")
    count: int | None = Field(None, ge=1, description="how many to keep where none are listed (count)")
    choose: Literal["uniform", "cka", "correlation"] = Field(
        "uniform", description="which ones, of `count`: evenly spaced with the last, or the ones that change most"
    )
    rows: int = Field(256, ge=8, description="training rows that layers are compared on (rows)")

    @model_validator(mode="after")
    def said_once(self) -> Self:
        """Refuse both a list and a count, neither, or a list out of order."""
        if bool(self.layers) == (self.count is not None):
            raise ValueError("layers, a list, or count")
        if self.layers != sorted(set(self.layers)) or any(number < 1 for number in self.layers):
            raise ValueError("layers: every one once, ascending, 1 is the first")
        return self


def check(teacher: Shape, params: Params, at: str) -> None:
    """Raises MismatchError where the teacher has fewer layers than are asked for."""
    asked = params.layers[-1] if params.layers else params.count
    if asked is not None and asked > teacher.layers:
        raise MismatchError(f"{at}: more layers than the teacher has", got=asked, expected=f"at most {teacher.layers}")


def make(source: Source, params: Params) -> nn.Module:
    """The teacher with the chosen layers alone. Raises MismatchError as `check`."""
    total = len(source.blocks)
    if params.layers:
        return keep(source, params.layers)
    count = params.count or total
    if params.choose == "uniform":
        return keep(source, uniform(total, count))
    likeness = linear_cka if params.choose == "cka" else correlation
    return keep(source, changing(source.states(params.rows), count, likeness))


def keep(source: Source, numbers: Sequence[int]) -> nn.Module:
    """The source's network with layers `numbers` (1 is the first) alone; the source is left as it was."""
    config, places = copy.deepcopy(source.config), {number - 1: place for place, number in enumerate(numbers)}
    text = getattr(config, "text_config", config)  # of a network of several parts the layers are the decoder's
    text.num_hidden_layers = len(numbers)
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[place] for place in places]
    state: dict[str, Tensor] = {}
    for name, value in source.network.state_dict().items():
        if not name.startswith(source.prefix):
            state[name] = value
            continue
        number, _, rest = name.removeprefix(source.prefix).partition(".")
        if int(number) in places:
            state[f"{source.prefix}{places[int(number)]}.{rest}"] = value
    return rebuilt(source.network, config, state)


def uniform(total: int, count: int) -> list[int]:
    """`count` of layers 1 to `total`, evenly spaced, the last among them."""
    return [-(-(place * total) // count) for place in range(1, count + 1)]


def changing(states: Sequence[np.ndarray], count: int, likeness: Any) -> list[int]:
    """The first layer, and of the others the `count` - 1 whose features [Q, H] are least like those of the layer
    before; in order, 1 is the first."""
    change = [1.0 - likeness(before, after) for before, after in itertools.pairwise(states)]
    others = np.argsort(np.array(change), kind="stable")[::-1][: count - 1] + 2
    return [1, *sorted(int(number) for number in others)]


def correlation(x_QH: np.ndarray, y_QH: np.ndarray) -> float:
    """Pearson correlation of each feature with itself one layer on, mean over H, -1 to 1; constant features count 0."""
    x, y = (own.astype(np.float64) - own.astype(np.float64).mean(0) for own in (x_QH, y_QH))
    scale_H = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return float(np.where(scale_H > 0, (x * y).sum(0) / np.where(scale_H > 0, scale_H, 1), 0).mean())

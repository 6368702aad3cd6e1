"""A narrower student: the teacher's most important heads, inner units and channels, in shapes transformers loads.

A part's importance is its weights' size, or what the loss would change without it to first order, |activation x
gradient|, over training rows: arXiv 1905.10650, equation 2, for heads, arXiv 1910.06360 for all three. BERT's heads
share its channels, so there fewer heads mean fewer channels of the residual stream (as in arXiv 2407.14679).

Shape legend: L layers, H channels of the residual stream, N heads, K key/value heads, D head size, I inner units.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.base import Section
from jobs.training.students import teacher_layers
from jobs.training.students.axes import AXES, axes_of
from jobs.training.students.importance import Importance, magnitude, taylor
from jobs.training.students.shape import Shape, of_config
from jobs.training.students.source import Source, rebuilt


class Params(Section):
    """Parameters of start `pruned`; a size that is null stays the teacher's."""

    hidden_size: int | None = Field(None, ge=8, description="channels of the residual stream that are kept (count)")
    heads: int | None = Field(None, ge=1, description="query heads kept in every layer (count)")
    inner_size: int | None = Field(None, ge=1, description="feed-forward units kept in every layer (count)")
    layers: list[int] = Field([], description="the teacher's layers to keep, ascending, 1 is the first; []: all")
    by: Literal["magnitude", "taylor"] = Field(
        "taylor", description="size of weights, or |activation x gradient| over training rows"
    )
    rows: int = Field(512, ge=8, description="training rows that taylor looks at (rows)")


@dataclass(frozen=True)
class Kept:
    """Indices int64 of what stays: channels [H], and per layer rows of the queries [N*D], of the keys [K*D], units
    [I]."""

    channels: Tensor
    queries: list[Tensor]
    keys: list[Tensor]
    units: list[Tensor]


def check(teacher: Shape, params: Params, at: str) -> None:
    """Raises RecipeError for a family whose parts are not known, MismatchError for sizes the teacher cannot give."""
    if teacher.family not in AXES:
        expected = ", ".join(AXES)
        hint = "teacher_layers keeps whole layers of any of them"
        raise RecipeError(f"{at}: parts of this family are not known", got=teacher.family, expected=expected, hint=hint)
    for name in ("hidden_size", "heads", "inner_size"):
        asked, have = getattr(params, name), getattr(teacher, name)
        if asked is not None and asked > have:
            raise MismatchError(f"{at}.{name}: more than the teacher has", got=asked, expected=f"at most {have}")
    if params.layers and (params.layers != sorted(set(params.layers)) or params.layers[-1] > teacher.layers):
        expected = f"ascending, at most {teacher.layers}"
        raise MismatchError(f"{at}.layers: no such layers", got=params.layers, expected=expected)
    heads, hidden = params.heads or teacher.heads, params.hidden_size or teacher.hidden_size
    if teacher.shared and hidden != heads * teacher.head_dim:
        got, expected = f"hidden_size {hidden}, heads {heads}", f"hidden_size {heads * teacher.head_dim}"
        raise MismatchError(f"{at}: heads of this family share the channels, {teacher.head_dim} each", got=got,
                            expected=expected)  # fmt: skip
    group = teacher.heads // teacher.kv_heads
    if heads % group:
        expected = f"a multiple of {group}"
        raise MismatchError(f"{at}.heads: query heads go with their key/value head", got=heads, expected=expected)


def make(source: Source, params: Params) -> nn.Module:
    """The teacher with its most important parts alone. Raises as `check`."""
    if params.layers:
        source = Source(source.task, teacher_layers.keep(source, params.layers), source.seed)
    shape = of_config(source.config)
    check(shape, params.model_copy(update={"layers": []}), "student.init.params")
    found = taylor(source, shape, params.rows) if params.by == "taylor" else magnitude(source, shape)
    return narrowed(source, kept(found, shape, params))


def kept(found: Importance, shape: Shape, params: Params) -> Kept:
    """The most important parts of each kind, in their old order; whole groups of query heads with their key head."""
    heads, group = params.heads or shape.heads, shape.heads // shape.kv_heads
    queries, keys = [], []
    for heads_N in found.heads:
        groups = _top(heads_N.view(shape.kv_heads, group).sum(1), heads // group)
        members = (groups[:, None] * group + torch.arange(group)).flatten()
        queries.append(_rows(members, shape.head_dim))
        keys.append(_rows(groups, shape.head_dim))
    units = [_top(units_I, params.inner_size or shape.inner_size) for units_I in found.units]
    return Kept(_top(found.channels, params.hidden_size or shape.hidden_size), queries, keys, units)


def narrowed(source: Source, own: Kept) -> nn.Module:
    """The source's network with the kept rows and columns of every weight."""
    shape, config = of_config(source.config), copy.deepcopy(source.config)
    config.hidden_size, config.intermediate_size = len(own.channels), len(own.units[0])
    config.num_attention_heads = len(own.queries[0]) // shape.head_dim
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = len(own.keys[0]) // shape.head_dim
    state = {name: _cut(source, name, value, own, shape.family) for name, value in source.network.state_dict().items()}
    return rebuilt(source.network, config, state)


def _cut(source: Source, name: str, value: Tensor, own: Kept, family: str) -> Tensor:
    number = name.removeprefix(source.prefix).partition(".")[0] if name.startswith(source.prefix) else "0"
    places: dict[str, Any] = {
        "h": own.channels, "q": own.queries[int(number)], "k": own.keys[int(number)], "i": own.units[int(number)]
    }  # fmt: skip
    for dimension, kind in enumerate(axes_of(family, name)):
        if kind in places:
            value = value.index_select(dimension, places[kind])
    return value.clone()


def _top(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _rows(heads: Tensor, size: int) -> Tensor:
    return (heads[:, None] * size + torch.arange(size)).flatten()

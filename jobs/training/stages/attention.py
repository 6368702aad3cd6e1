"""Whether the networks of a recipe will show the layers and the attention that a stage reads, before anything is
fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe, Stage
from jobs.training.losses import LOSSES, MAPPED, MAPS, PROJECTIONS, TOKEN_TASKS, relation_transfer
from jobs.training.schedules import params_at
from jobs.training.students import shape


@dataclass(frozen=True)
class Heads:
    """Query heads, key/value heads (counts), and the width of one."""

    query: int
    key: int
    size: int

    def widths(self, chosen: Sequence[int]) -> set[int]:
        """Widths of query, key and value of these heads; of all where none are named."""
        return {len(chosen) * self.size} if chosen else {self.query * self.size, self.key * self.size}


def check(recipe: Recipe, stage: Stage, at: str) -> None:
    """Refuse weights whose layers are no feature maps or have no query, key and value, heads that are not there, and
    `relation_heads` that cut no width. Raises RecipeError with the dotted path."""
    if stage.layers is not None and recipe.task in MAPPED:
        _maps("teacher", recipe.teacher, at)
        _maps("student", recipe.student, at)
    needs = {name for term in stage.losses for name in LOSSES[term.name].needs}
    if recipe.task not in TOKEN_TASKS or stage.layers is None or not needs & {*MAPS, *PROJECTIONS}:
        return
    sides: list[tuple[str, ModelSection, list[int]]] = [("teacher", recipe.teacher, stage.layers.teacher_heads)]
    if recipe.student.init is None:  # else it is made of the teacher's layers
        sides.append(("student", recipe.student, stage.layers.student_heads))
    for name, section, chosen in sides:
        own = _heads(name, section, at)
        if wrong := [head for head in chosen if not 0 <= head < own.query]:
            raise RecipeError(f"{at}.layers.{name}_heads: no such head", got=wrong, expected=f"0 to {own.query - 1}")
        for index, term in enumerate(stage.losses):
            if term.name != "relation_transfer":
                continue
            parsed = relation_transfer.Params.parse(params_at(term.params, 0, 2))
            if uneven := sorted(width for width in own.widths(chosen) if width % parsed.relation_heads):
                what = f"{at}.losses.{index}.params.relation_heads: does not divide what the {name}'s heads are wide"
                raise RecipeError(what, got=parsed.relation_heads, expected=f"a divisor of {uneven}")


def _maps(name: str, section: ModelSection, at: str) -> None:
    if section.weights is None:
        return
    config, bare = _bare(section.weights)
    if not len(getattr(getattr(bare, "encoder", None), "stages", ())):
        expected = "a convolutional network of several stages, or layers null"
        raise RecipeError(f"{at}.layers: {name}.weights keep no stages", got=config.model_type, expected=expected)


def _bare(source: str) -> tuple[Any, Any]:
    """Config and network of a folder, without values."""
    import torch
    from transformers import AutoConfig, AutoModel

    from serving.models import weights

    auto: Any = AutoModel
    config: Any = AutoConfig.from_pretrained(weights.locate(source))
    with torch.device("meta"):
        return config, auto.from_config(config)


def _heads(name: str, section: ModelSection, at: str) -> Heads:
    if section.weights is None:
        sizes = shape.of_section(section)
        return Heads(sizes.heads, sizes.kv_heads, sizes.head_dim)
    from serving.models import layers

    config, bare = _bare(section.weights)
    try:
        layers.projections_of(layers.blocks(SimpleNamespace(encoder=bare, model=bare))[0])
    except ValueError:
        what = f"{at}.layers: {name}.weights show no attention"
        expected = "layers with query, key and value of their own"
        raise RecipeError(what, got=config.model_type, expected=expected) from None
    query = int(config.num_attention_heads)
    key = int(getattr(config, "num_key_value_heads", None) or query)
    return Heads(query, key, int(getattr(config, "head_dim", None) or config.hidden_size // query))

"""The sizes of a network that a student may be cut from: known from a recipe before there is a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.recipe import ModelSection


@dataclass(frozen=True)
class Shape:
    """Counts of one network; `family` is transformers' model_type, `hidden_size` follows `heads` where heads share it
    (`head_dim` is then their quotient and cannot change)."""

    family: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    inner_size: int
    shared: bool


def of_config(config: Any) -> Shape:
    """The sizes a transformers config says; of several parts those of the decoder."""
    config = getattr(config, "text_config", config)
    heads = int(config.num_attention_heads)
    own = getattr(config, "head_dim", None)
    kv_heads = getattr(config, "num_key_value_heads", None)
    return Shape(
        family=config.model_type, layers=int(config.num_hidden_layers), hidden_size=int(config.hidden_size),
        heads=heads, kv_heads=int(kv_heads or heads), head_dim=int(own or config.hidden_size // heads),
        inner_size=int(config.intermediate_size), shared=own is None,
    )  # fmt: skip


def of_section(section: ModelSection) -> Shape:
    """The sizes of a recipe's model: its weights' config, or its params. Raises RecipeError as their own check does."""
    if section.weights is None:
        return ARCHITECTURES[section.architecture](section.params)
    from transformers import AutoConfig

    from serving.models import weights

    return of_config(AutoConfig.from_pretrained(weights.locate(section.weights)))


def _encoder(params: Mapping[str, Any]) -> Shape:
    from serving.models.encoder import EncoderParams

    own = EncoderParams.parse(params, at="teacher.params")
    size = own.hidden_size // own.heads
    return Shape("bert", own.layers, own.hidden_size, own.heads, own.heads, size, own.inner_size, True)


def _decoder(params: Mapping[str, Any]) -> Shape:
    from serving.models import decoder

    own = decoder.check(params, "teacher.params")
    return Shape("qwen3", own.layers, own.hidden_size, own.heads, own.kv_heads, own.head_dim, own.inner_size, False)


def _omni(params: Mapping[str, Any]) -> Shape:
    from serving.models.omni import OmniParams

    own = OmniParams.parse(params, at="teacher.params")
    return Shape("qwen3_omni_moe_text", own.layers, own.hidden_size, own.heads, own.kv_heads, own.head_dim,
                 2 * own.hidden_size, False)  # fmt: skip


# Architecture -> the sizes of its params; the ones whose weights a student can be cut from.
ARCHITECTURES: Mapping[str, Callable[[Mapping[str, Any]], Shape]] = {
    "decoder": _decoder, "encoder": _encoder, "omni_moe": _omni
}  # fmt: skip

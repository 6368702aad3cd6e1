"""Decoder-only language models with grouped key/value heads (the Qwen3, Qwen2, Llama and Mistral families of
transformers): built from sizes, read from a folder, scored at the positions that predict an answer.

Shape legend: B rows, S tokens, Q scored positions, V vocabulary, H hidden size, K key/value heads, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.base import Section

# One block: rotary attention, then a gated MLP, or several of them behind a router.
FAMILIES = ("qwen3", "qwen3_moe", "qwen2", "llama", "mistral")


class DecoderParams(Section):
    """Sizes of a fresh decoder (`params` of architecture `decoder`)."""

    layers: int = Field(4, ge=1, description="blocks (count)")
    hidden_size: int = Field(192, ge=8, description="width of the residual stream")
    heads: int = Field(4, ge=1, description="query heads (count)")
    kv_heads: int = Field(4, ge=1, description="key/value heads (count); divides heads")
    head_dim: int = Field(32, ge=8, multiple_of=8, description="width of a head")
    inner_size: int = Field(512, ge=8, description="width inside the gated MLP")
    tied: bool = Field(True, description="whether the head is the token table")
    rope_theta: float = Field(10_000.0, gt=1, description="base of the rotary angles (RoFormer, arXiv 2104.09864)")


def check(params: Mapping[str, Any], at: str) -> DecoderParams:
    """The checked sizes. Raises RecipeError, also where query heads do not divide among key/value heads."""
    own = DecoderParams.parse(params, at=at)
    if own.heads % own.kv_heads:
        got, expected = f"{own.heads} heads, {own.kv_heads} kv_heads", "heads a multiple of kv_heads"
        raise RecipeError(f"{at}: heads do not divide", got=got, expected=expected)
    return own


def build(params: Mapping[str, Any], vocabulary: int, positions: int, ends: Mapping[str, int], seed: int) -> nn.Module:
    """A seeded Qwen3 of these sizes that reads up to `positions` tokens; `ends` names the ids `bos` and `eos`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    own = check(params, "params")
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=own.hidden_size, num_hidden_layers=own.layers,
        num_attention_heads=own.heads, num_key_value_heads=own.kv_heads, head_dim=own.head_dim,
        intermediate_size=own.inner_size, max_position_embeddings=positions, tie_word_embeddings=own.tied,
        rope_parameters={"rope_type": "default", "rope_theta": own.rope_theta},
        bos_token_id=ends["bos"], eos_token_id=ends["eos"], use_cache=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    model: nn.Module = Qwen3ForCausalLM(config)
    return model


def load(folder: str | Path) -> nn.Module:
    """A decoder in float32 from a Hugging Face folder or hub id. Raises RecipeError for another family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = AutoConfig.from_pretrained(str(folder)).model_type
    if kind not in FAMILIES:
        hint = "as a teacher it can be asked by architecture: causal_lm"
        raise RecipeError("weights: no decoder of these families", got=kind, expected=", ".join(FAMILIES), hint=hint)
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    model.config.use_cache = False
    return model  # type: ignore[no-any-return]


def kv_bytes(model: nn.Module) -> int:
    """Bytes one token keeps in a float32 key/value cache: 2 x layers x K x D x 4."""
    config: Any = model.config
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config) * 4)


def head_dim(config: Any) -> int:
    """D: Llama's older configs leave it to be worked out."""
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def merge_kv_heads(model: nn.Module, kv_heads: int) -> nn.Module:
    """The same model with its key/value heads mean-pooled down to `kv_heads` (GQA up-training, arXiv 2305.13245, 2.1).

    Raises MismatchError when the number does not divide what is there.
    """
    own: Any = model
    have, size = own.config.num_key_value_heads, head_dim(own.config)
    if have % kv_heads:
        expected = f"a divisor of {have}"
        raise MismatchError("kv_heads must divide the student's key/value heads", got=kv_heads, expected=expected)
    config = copy.deepcopy(own.config)
    config.num_key_value_heads = kv_heads
    merged, state = type(own)(config), own.state_dict()
    for name, value in state.items():
        if name.split(".")[-2:-1] in (["k_proj"], ["v_proj"]):
            heads = value.reshape(kv_heads, have // kv_heads, size, *value.shape[1:])
            state[name] = heads.mean(1).reshape(kv_heads * size, *value.shape[1:])
    merged.load_state_dict(state)
    ready: nn.Module = merged
    return ready


def scored(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [Q, V] and last hidden state [Q, H] at the positions that predict an answer's tokens.

    `batch`: input_ids [B, S], scored int64 [Q] (flat row * S + position). Rows are padded on the right; under a causal
    mask no real token sees padding, and the head is computed at scored positions only.
    """
    own: Any = model
    hidden_BSH = own.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    hidden_QH = hidden_BSH.flatten(0, 1)[batch["scored"]]
    return own.lm_head(hidden_QH), hidden_QH

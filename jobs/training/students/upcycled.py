"""A mixture-of-experts student from a dense decoder: every expert starts as the dense feed-forward block, the router
small and random (sparse upcycling, arXiv 2212.05055, section 3).

The experts' shares sum to 1, so before the first step the student computes exactly what its dense origin does.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.base import Section
from jobs.training.students import teacher_layers
from jobs.training.students.shape import Shape
from jobs.training.students.source import Source

FAMILY = "qwen3"  # the dense family that has a sparse one of the same blocks
COPIED = (  # what the sparse family's config takes over from the dense one's
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "tie_word_embeddings",
    "rope_parameters", "attention_bias", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip


class Params(Section):
    """Parameters of start `upcycled`."""

    experts: int = Field(4, ge=2, description="experts per layer (count)")
    experts_per_token: int = Field(2, ge=1, description="experts that answer a token (count)")
    layers: list[int] = Field([], description="the teacher's layers to keep, ascending, 1 is the first; []: all")

    @model_validator(mode="after")
    def fewer_are_used(self) -> Self:
        """Refuse more experts per token than there are."""
        if self.experts_per_token > self.experts:
            raise ValueError("experts_per_token of at most experts")
        return self


def check(teacher: Shape, params: Params, at: str) -> None:
    """Raises RecipeError for a family without a sparse form, MismatchError for layers that are not there."""
    if teacher.family != FAMILY:
        hint = "architecture omni_moe is a fresh one"
        raise RecipeError(f"{at}: no sparse form of this family", got=teacher.family, expected=FAMILY, hint=hint)
    if params.layers and (params.layers[0] < 1 or params.layers[-1] > teacher.layers):
        got, expected = params.layers, f"1 to {teacher.layers}"
        raise MismatchError(f"{at}.layers: no such layer", got=got, expected=expected)


def make(source: Source, params: Params) -> nn.Module:
    """The teacher, or the layers kept of it, with experts; the router is drawn from the recipe's seed."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    dense: Any = teacher_layers.keep(source, params.layers) if params.layers else source.network
    config = Qwen3MoeConfig(
        **{name: getattr(dense.config, name) for name in COPIED}, num_experts=params.experts,
        num_experts_per_tok=params.experts_per_token, moe_intermediate_size=dense.config.intermediate_size,
        norm_topk_prob=True,
    )  # fmt: skip
    torch.manual_seed(source.seed)
    sparse: nn.Module = Qwen3MoeForCausalLM(config)
    own, state = dense.state_dict(), sparse.state_dict()
    for name in state:
        if name in own:
            state[name] = own[name]
        elif ".experts." in name:
            state[name] = _experts(own, name, params.experts)
    sparse.load_state_dict(state)
    return sparse


def _experts(own: dict[str, Tensor], name: str, experts: int) -> Tensor:
    """The dense weights that one of the experts' tensors is made of, once per expert; gate above up."""
    block, _, kind = name.rpartition("experts.")
    parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
    return torch.cat([own[f"{block}{part}.weight"] for part in parts]).expand(experts, -1, -1).clone()

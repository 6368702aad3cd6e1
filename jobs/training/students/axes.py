"""What every axis of a family's parameters counts: channels of the residual stream, heads' rows, or inner units.

h channels, q rows of query heads, k rows of key/value heads, i inner units, - nothing that is pruned.
"""

from __future__ import annotations

from collections.abc import Mapping

_BERT: Mapping[str, str] = {
    "embeddings.weight": "-h", "LayerNorm.weight": "h", "LayerNorm.bias": "h",
    "self.query.weight": "qh", "self.query.bias": "q", "self.key.weight": "qh", "self.key.bias": "q",
    "self.value.weight": "qh", "self.value.bias": "q",
    "attention.output.dense.weight": "hq", "attention.output.dense.bias": "h",
    "intermediate.dense.weight": "ih", "intermediate.dense.bias": "i",
    "output.dense.weight": "hi", "output.dense.bias": "h", "head.weight": "-h", "head.bias": "-",
}  # fmt: skip
_GATED: Mapping[str, str] = {
    "embed_tokens.weight": "-h", "norm.weight": "h", "layernorm.weight": "h", "lm_head.weight": "-h",
    "q_proj.weight": "qh", "q_proj.bias": "q", "k_proj.weight": "kh", "k_proj.bias": "k",
    "v_proj.weight": "kh", "v_proj.bias": "k", "o_proj.weight": "hq", "o_proj.bias": "h",
    "q_norm.weight": "-", "k_norm.weight": "-",
    "gate_proj.weight": "ih", "up_proj.weight": "ih", "down_proj.weight": "hi",
}  # fmt: skip
# transformers' model_type -> ending of a parameter's name -> its axes. Llama's heads share its channels' number only
# where its config has no head_dim, which transformers always writes.
AXES: Mapping[str, Mapping[str, str]] = {
    "bert": _BERT, "llama": _GATED, "mistral": _GATED, "qwen2": _GATED, "qwen3": _GATED
}  # fmt: skip
# Within a layer: the module whose input is the heads' mixed values, and the one whose input are the inner units.
READERS: Mapping[str, tuple[str, str]] = {
    "bert": ("attention.output.dense", "output.dense"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), ("self_attn.o_proj", "mlp.down_proj")),
}


def axes_of(family: str, name: str) -> str:
    """The axes of a parameter, one letter each; the longest known ending of its name decides.

    Raises ValueError for a parameter that the family's table does not know.
    """
    fitting = [ending for ending in AXES[family] if name.endswith(ending)]
    if not fitting:
        raise ValueError(f"unknown_parameter: {name} of family {family}")
    return AXES[family][max(fitting, key=len)]

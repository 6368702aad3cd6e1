"""Attention maps of a decoder with rotary positions, from the projections that its layers compute (see `layers`).

Shape legend: B rows, S tokens, N query heads, K key/value heads, D width of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def turns(network: Any) -> bool:
    """Whether a network is a causal decoder that turns its queries and keys (the families of `decoder`)."""
    return hasattr(getattr(network, "model", None), "rotary_emb")


def attention(network: Any, block: Any, projections: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
    """softmax(Q K^T * scale) over the real tokens (`mask_BS`) up to the query's own, float32 [B, N, S, S].

    Queries and keys are normed and turned as the layer itself does; a sliding window is heeded. Rows are padded on the
    right, as in `decoder.scored`.
    """
    own, tokens = block.self_attn, mask_BS.shape[1]
    query_BNSD, key_BKSD = (
        projections[name].view(*mask_BS.shape, -1, own.head_dim).transpose(1, 2) for name in ("query", "key")
    )
    if hasattr(own, "q_norm"):
        query_BNSD, key_BKSD = own.q_norm(query_BNSD), own.k_norm(key_BKSD)
    place_S = torch.arange(tokens, device=mask_BS.device)
    angles = network.model.rotary_emb(query_BNSD, place_S[None])
    turned = sys.modules[type(own).__module__].apply_rotary_pos_emb  # each family's own
    query_BNSD, key_BKSD = turned(query_BNSD, key_BKSD, *angles)
    key_BNSD = key_BKSD.repeat_interleave(query_BNSD.shape[1] // key_BKSD.shape[1], 1)
    back_SS = place_S[:, None] - place_S
    holder = own if hasattr(own, "sliding_window") else network.config  # Mistral's layers read their config
    window = getattr(holder, "sliding_window", None) or tokens
    seen_BSS = mask_BS[:, None, :] & (back_SS >= 0) & (back_SS < window)
    # A query that is padding sees itself, or its softmax were of nothing.
    seen_BSS = seen_BSS | torch.eye(tokens, dtype=torch.bool, device=mask_BS.device)
    scores_BNSS = query_BNSD.float() @ key_BNSD.float().transpose(-1, -2) * own.scaling
    return torch.softmax(scores_BNSS.masked_fill(~seen_BSS[:, None], float("-inf")), -1)

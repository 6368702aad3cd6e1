"""BERT's embeddings as an exported graph computes them: rows are one segment and begin at position 0, so the segment's
vector is added to the positions' table once, when the graph is written.

transformers' own module finds out on every call which segment and position each token has: 24 of the 71 nodes of a
small student's graph, a tenth of its time. Shape legend: B rows, S tokens, P positions, H hidden size.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class OneSegment(nn.Module):
    """The embeddings of `of`, a transformers `BertEmbeddings`, without its choices."""

    at_P: Tensor

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.word_embeddings, self.LayerNorm = of.word_embeddings, of.LayerNorm
        self.position_embeddings = copy.deepcopy(of.position_embeddings)
        with torch.no_grad():
            self.position_embeddings.weight += of.token_type_embeddings.weight[0]
        self.register_buffer("at_P", torch.arange(len(self.position_embeddings.weight)))

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        """States [B, S, H] of token ids [B, S]; what else BERT hands over says what is the same in every row."""
        here_SH = self.position_embeddings(self.at_P[: input_ids.shape[1]])
        states_BSH: Tensor = self.LayerNorm(self.word_embeddings(input_ids) + here_SH)
        return states_BSH


def traceable(encoder: Any) -> Any:
    """A copy of an encoder in evaluation mode to be traced: eager attention (one subgraph a layer, which quantizers and
    ONNX Runtime fuse) and, where it is a BERT, embeddings of one segment."""
    from transformers.models.bert.modeling_bert import BertEmbeddings

    own = copy.deepcopy(encoder).eval().float().cpu()
    own.set_attn_implementation("eager")
    if type(getattr(own, "embeddings", None)) is BertEmbeddings:
        own.embeddings = OneSegment(own.embeddings)
    return own

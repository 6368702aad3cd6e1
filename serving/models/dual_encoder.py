"""Dual encoder for retrieval: one encoder reads questions and entries, and a question's best entry is the one whose
vector has the largest cosine with its own.

A folder holds the encoder as Hugging Face writes it; the entries stand in `task.json`. Shape legend: B questions,
C candidate entries, E all entries, S tokens, H hidden size, R rows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serving.models import encoder, one_segment, tracing
from serving.models.weights import locate

INDEX = "index.npy"


class DualEncoder(nn.Module):
    """An encoder, and the factor on cosines that makes them logits."""

    def __init__(self, own: Any, scale: float) -> None:
        super().__init__()
        self.encoder, self.config, self.scale = own, own.config, scale

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, C] of questions (`input_ids`, `attention_mask` [B, S]) and candidates (`candidate_ids`,
        `candidate_mask` [C, S']), C 0 without them; and the questions' vectors [B, H], not normalised."""
        entry_CH = None
        if "candidate_ids" in batch:  # first: whoever looks at the layers' last outputs sees the questions'
            entry_CH = self.pooled(batch["candidate_ids"], batch["candidate_mask"])
        question_BH = self.pooled(batch["input_ids"], batch["attention_mask"])
        if entry_CH is None:
            return question_BH[:, :0], question_BH
        return self.scale * F.normalize(question_BH, dim=-1) @ F.normalize(entry_CH, dim=-1).T, question_BH

    def pooled(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """The mean of the real tokens' states, [B, H]."""
        states_BSH = self.encoder(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
        pooled_BH: Tensor = (states_BSH * mask_BS[..., None]).sum(1) / mask_BS.sum(1, keepdim=True)
        return pooled_BH

    def rebuilt(self, config: Any, state: Mapping[str, Tensor]) -> DualEncoder:
        """A dual encoder with another config and these parameters. Raises RuntimeError where they do not fit."""
        fresh = DualEncoder(encoder.bare(type(self.encoder), config), self.scale)
        fresh.load_state_dict(dict(state))
        return fresh


def vectors(model: Any, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pooled states float32 [R, H] of token rows, and the same as unit vectors."""
    _, pooled_RH = encoder.run(model, rows)
    return pooled_RH, pooled_RH / np.linalg.norm(pooled_RH, axis=1, keepdims=True).clip(1e-6)


def pretrained(weights: str, scale: float) -> DualEncoder:
    """The encoder of `weights` as a dual encoder; nothing in it is fresh."""
    return DualEncoder(encoder.bare_of(locate(weights)), scale)


def build(params: Mapping[str, Any], max_tokens: int, scale: float, teacher: str, seed: int) -> DualEncoder:
    """A fresh student on the encoder of `encoder.fresh`."""
    return DualEncoder(encoder.fresh(params, max_tokens, teacher, seed), scale)


def save(model: nn.Module, folder: Path) -> None:
    """Write the encoder as float32, whatever it was trained in."""
    own: Any = model
    state = {name: value.detach().float().cpu().contiguous() for name, value in own.encoder.state_dict().items()}
    with encoder.quiet():
        own.encoder.save_pretrained(str(folder), state_dict=state)


def load(folder: str | Path) -> DualEncoder:
    """The dual encoder of a folder with `task.json`, in evaluation mode."""
    scale = json.loads((Path(folder) / "task.json").read_text())["scale"]
    return DualEncoder(encoder.bare_of(str(folder)), scale).eval()


class Graph(nn.Module):
    """Token ids [B, S], none of them padding, to vectors [B, H], not normalised."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.encoder = one_segment.traceable(model.encoder)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """The mean state [B, H], as a product: see `encoder.Graph`."""
        states_BSH = self.encoder(input_ids=ids_BS).last_hidden_state
        shares_B1S = torch.ones_like(ids_BS, dtype=torch.float32)[:, None] / ids_BS.shape[1]
        vector_BH: Tensor = (shares_B1S @ states_BSH)[:, 0]
        return vector_BH


def export(model: nn.Module, folder: Path, entries: Sequence[np.ndarray], opset: int | None = 17) -> None:
    """Write graph `model` (see `tracing.write`; float32, input_ids int64 [B, S] -> vector [B, H]) and the entries'
    unit vectors [E, H], of their token rows, into `index.npy`; the model itself is left as it was."""
    own: Any = copy.deepcopy(model).eval().float().cpu()
    _, unit_EH = vectors(own, entries)
    np.save(folder / INDEX, unit_EH.astype(np.float32))
    example_BS = torch.arange(3 * 5).reshape(3, 5) % own.config.vocab_size
    names = {"input_ids": {0: "B", 1: "S"}}, {"vector": {0: "B"}}
    tracing.write(Graph(own), (example_BS,), folder / "model", names, opset)

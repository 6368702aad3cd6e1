"""Token-by-token decoding of a batch with a key/value cache: what each row took, and what it cost to choose.

Rows that are done leave the batch once they are half of it. Drawing is by the inverse of the cumulative distribution,
p = softmax(logits / T): the first token whose cumulative probability exceeds the row's uniform number of that step.
Shape legend: B rows, S tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from serving.teachers.replies import Array

if TYPE_CHECKING:
    from serving.teachers.causal import CausalTeacher, Packer


@dataclass
class Span:
    """What one row took: tokens with the end, the log-probability of each at T=1, and what was asked to be kept
    (`logits` float32 [V] and `hidden` float32 [H] per token)."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    hidden: list[Array] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Rows that are decoded together: their indexes, prompts int64 [S] each, the generation `temperature`, and the
    uniform numbers float64 [B, steps] of their streams (None: greedy)."""

    rows: Sequence[int]
    prompts: Sequence[Array]
    temperature: float
    draws: Array | None


@dataclass
class _State:
    """The running part of a batch: `live` are positions in the batch, one per row of every tensor."""

    live: list[int]
    ids_BS: Tensor
    mask_BS: Tensor
    position_BS: Tensor
    cache: Any

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self.ids_BS.device)
        self.live = [self.live[row] for row in rows]
        self.ids_BS, self.mask_BS = self.ids_BS[index], self.mask_BS[index]
        self.position_BS = self.position_BS[index]
        self.cache.batch_select_indices(index)


@torch.no_grad()
def decode(teacher: CausalTeacher, batch: Batch, packer: Packer | None) -> list[Span]:
    """What each row of the batch took, in order; logits are kept where no `packer` takes them."""
    state, spans = _start(teacher.model, batch.prompts), [Span() for _ in batch.rows]
    done: set[int] = set()
    for step in range(teacher.params.max_new_tokens):
        logits_BV, hidden_BH = _forward(teacher, state)
        uniform_B = None if batch.draws is None else batch.draws[state.live, step]
        token_B = choose(logits_BV, batch.temperature, uniform_B)
        logprob_B = logits_BV.gather(1, token_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
        rows = [row for row, at in enumerate(state.live) if at not in done]
        if packer is not None:
            packer([batch.rows[state.live[row]] for row in rows], logits_BV[rows], token_B[rows])
        logits = None if packer is not None else logits_BV.cpu().numpy()
        hidden = None if hidden_BH is None else hidden_BH.float().cpu().numpy()
        tokens, logprobs = token_B.tolist(), logprob_B.tolist()
        for row in rows:
            span = spans[state.live[row]]
            span.tokens.append(tokens[row])
            span.logprobs.append(logprobs[row])
            if logits is not None:
                span.logits.append(logits[row].copy())
            if hidden is not None:
                span.hidden.append(hidden[row].copy())
            if tokens[row] in teacher.ends:
                done.add(state.live[row])
        if len(done) == len(spans):
            break
        _advance(state, token_B, done)
    return spans


def choose(logits_BV: Tensor, temperature: float, uniform_B: Array | None) -> Tensor:
    """The next token int64 [B]: the likeliest, or drawn at `temperature` with one uniform number 0..1 per row."""
    if uniform_B is None:
        return logits_BV.argmax(-1)
    p_BV = (logits_BV.double() / temperature).softmax(-1)
    cumulative_BV = p_BV.cumsum(-1)
    # Times the last sum: float64 sums of 150,000 numbers end near 1, not at it.
    aim_B1 = torch.from_numpy(uniform_B).to(p_BV.device)[:, None] * cumulative_BV[:, -1:]
    return (cumulative_BV <= aim_B1).sum(-1).clamp(max=p_BV.shape[1] - 1)


def _start(model: Any, prompts: Sequence[Array]) -> _State:
    from transformers import DynamicCache

    longest = max(len(ids) for ids in prompts)
    ids_BS = np.zeros((len(prompts), longest), np.int64)
    mask_BS = np.zeros((len(prompts), longest), np.int64)
    for row, ids in enumerate(prompts):
        ids_BS[row, longest - len(ids) :], mask_BS[row, longest - len(ids) :] = ids, 1
    position_BS = np.maximum(mask_BS.cumsum(-1) - 1, 0)
    read, mask, position = (torch.from_numpy(value).to(model.device) for value in (ids_BS, mask_BS, position_BS))
    return _State(list(range(len(prompts))), read, mask, position, DynamicCache(config=model.config))


def _forward(teacher: CausalTeacher, state: _State) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [B, V] of the last position, and its hidden state [B, H] where it is kept."""
    out = teacher.model(
        input_ids=state.ids_BS, attention_mask=state.mask_BS, position_ids=state.position_BS,
        past_key_values=state.cache, use_cache=True, logits_to_keep=1,
        output_hidden_states=teacher.params.keep_hidden,
    )  # fmt: skip
    hidden_BH = out.hidden_states[-1][:, -1] if teacher.params.keep_hidden else None
    return out.logits[:, -1].float(), hidden_BH


def _advance(state: _State, token_B: Tensor, done: set[int]) -> None:
    """The next step reads the token just taken; rows that are done leave where they are half of the batch."""
    state.ids_BS, state.position_BS = token_B[:, None], state.position_BS[:, -1:] + 1
    state.mask_BS = torch.cat([state.mask_BS, torch.ones_like(token_B)[:, None]], 1)
    left = [row for row, at in enumerate(state.live) if at not in done]
    if 2 * len(left) <= len(state.live):
        state.keep(left)


@torch.no_grad()
def measure(model: Any, rows: int = 8, length: int = 64, passes: int = 3) -> dict[str, float]:
    """Tokens per second of a forward pass in float32 and in bfloat16: the best of `passes`, after one to warm up.

    Leaves the model in float32.
    """
    ids_BS = torch.zeros((rows, length), dtype=torch.long, device=model.device)
    rates = {}
    for name in ("bfloat16", "float32"):
        model.to(getattr(torch, name))
        seconds = []
        for _ in range(passes + 1):
            started = time.perf_counter()
            model(input_ids=ids_BS, logits_to_keep=1).logits.sum().item()
            seconds.append(time.perf_counter() - started)
        rates[name] = rows * length / min(seconds[1:])
    return rates

"""What a teacher gives back for one request: a `Reply`, or the `Failure` that becomes a dead letter.

Shape legend: A answer tokens (1 for classes), V vocabulary or classes, H hidden size, N alternatives of all positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.errors import RaydistillError

Array = np.ndarray[Any, Any]


class TeacherFailed(RaydistillError):
    """A single answer was asked for and the teacher had none: `reason`, `detail` and how often it was asked."""

    def __init__(self, failure: Failure) -> None:
        said = f"{failure.reason} after {failure.attempts} attempts ({failure.detail})"
        super().__init__(f"the teacher did not answer: {said}")
        self.failure = failure


@dataclass(frozen=True)
class Usage:
    """What an answer took: tokens read and written, and their price in the currency of the recipe's prices (0: free or
    local). `measured` is false where the teacher did not say, and the numbers are upper bounds."""

    input_tokens: int
    output_tokens: int
    cost: float = 0.0
    measured: bool = True

    def __add__(self, other: Usage) -> Usage:
        """Both together; measured only when both are."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost + other.cost,
            self.measured and other.measured,
        )


@dataclass(frozen=True)
class TopLogprobs:
    """The likeliest tokens of an endpoint that shows no logits, packed: `chosen` float32 [A] log-probability of each
    answer token, `counts` int32 [A] alternatives listed per position (0 is allowed), and for all positions after one
    another their `logprobs` float32 [N], `words` (N texts) and, where the engine tells them, `ids` int64 [N]."""

    chosen: Array
    counts: Array
    logprobs: Array
    words: tuple[str, ...]
    ids: Array | None = None

    @property
    def confidence(self) -> float:
        """exp(mean log-probability of the answer's tokens), 0..1 (DESIGN, decision 5)."""
        return float(np.exp(np.mean(self.chosen, dtype=np.float64)))


@dataclass(frozen=True)
class Reply:
    """One answer. `text`; `confidence` 0..1 (exp of the mean token log-probability, or the largest class probability),
    None where the teacher tells no probabilities; `tokens` int64 [A], `logits` float32 [A, V] at T=1 and the last
    `hidden` state [A, H] where they are known and kept; `top` what an endpoint tells instead of logits."""

    text: str
    confidence: float | None
    tokens: Array | None = None
    logits: Array | None = None
    hidden: Array | None = None
    top: TopLogprobs | None = None
    usage: Usage | None = None
    attempts: int = 1


@dataclass(frozen=True)
class DenseReply(Reply):
    """One answer with everything: `tokens` int64 [A] up to and with the end (or the class), the float32 `logits`
    [A, V] at T=1 that chose them, the last `hidden` state [A, H], and `confidence`."""

    confidence: float
    tokens: Array
    logits: Array
    hidden: Array


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: `reason` is a short name that is counted, `detail` a sentence for people that never holds
    a key, `attempts` how often the teacher was asked (0: never, the budget was spent)."""

    reason: str
    detail: str
    attempts: int
    usage: Usage | None = None

"""What may be spent on an endpoint, in money or tokens: never over, because a request is paid for before it is sent.

Each attempt reserves the most it can take (every token of a prompt is at least one byte of it, and the answer's length
is bounded), and gives back what it did not use. An attempt whose outcome is unknown (a timeout, a cut reply) keeps its
whole reservation: the server may have charged for it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from serving.teachers.replies import Usage


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens read and written, in the currency of the budget."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0

    def usage(self, input_tokens: int, output_tokens: int, measured: bool = True) -> Usage:
        """The usage with its cost."""
        cost = (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6
        return Usage(input_tokens, output_tokens, cost, measured)


class Budget:
    """A limit in money, in tokens (read and written), in both or none, shared by all threads of a teacher."""

    def __init__(self, cost: float | None, tokens: float | None) -> None:
        self.cost, self.tokens = cost, tokens
        self.spent = Usage(0, 0)
        self._held: list[Usage] = []
        self._changed = threading.Condition()

    def reserve(self, most: Usage) -> bool:
        """Set aside the most that an attempt can take. False: it does not fit, even when all others have settled.

        While others are still out the answer is not known yet, and this waits for them.
        """
        with self._changed:
            while not self._fits(most):
                if not self._held:
                    return False
                self._changed.wait()
            self._held.append(most)
            return True

    def settle(self, most: Usage, used: Usage) -> None:
        """Turn a reservation into what was really used (nothing: `Usage(0, 0)`)."""
        with self._changed:
            self._held.remove(most)
            self.spent = self.spent + used
            self._changed.notify_all()

    def _fits(self, most: Usage) -> bool:
        total = most
        for usage in (self.spent, *self._held):
            total = total + usage
        tokens = total.input_tokens + total.output_tokens
        return (self.cost is None or total.cost <= self.cost) and (self.tokens is None or tokens <= self.tokens)

"""A circuit breaker: after failures in a row a model is not asked for a while, then one request tries it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed until `failures` in a row; then open for `cooldown_ms`, then half open: one probe at a time decides."""

    def __init__(self, failures: int, cooldown_ms: float, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._limit, self._cooldown_s, self._clock = failures, cooldown_ms / 1000, clock
        self._in_a_row, self._opened, self._probing = 0, 0.0, False

    @property
    def state(self) -> State:
        """Whether requests pass: all, none, or the next one only."""
        if self._in_a_row < self._limit:
            return "closed"
        return "open" if self._clock() < self._opened + self._cooldown_s else "half_open"

    def allows(self) -> bool:
        """Whether this request may pass; a yes is followed by `passed`, `failed` or `dropped`."""
        state = self.state
        if state == "half_open" and not self._probing:
            self._probing = True
            return True
        return state == "closed"

    def passed(self) -> None:
        """The model answered: the breaker closes."""
        self._in_a_row, self._probing = 0, False

    def failed(self) -> None:
        """The model did not: the breaker opens when it was one too many, or the probe."""
        self._in_a_row += 1
        self._probing = False
        if self._in_a_row >= self._limit:
            self._opened = self._clock()

    def dropped(self) -> None:
        """The call was given up for no fault of the model; of a probe, the next request is one again."""
        self._probing = False

    def trip(self) -> None:
        """Open at once: the model is known to be gone."""
        self._in_a_row = max(self._in_a_row, self._limit - 1)
        self.failed()

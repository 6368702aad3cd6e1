"""A bucket of tokens: what costs extra (hedges, the teacher, shadows) is a share of the traffic, and has a burst."""

from __future__ import annotations


class Tokens:
    """A bucket that each request pours `share` of a token into, `most` fit in; taking one empties it by one.

    It begins full, but for a share of 0: that is never.
    """

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most, self._level = share, most, most if share else 0.0

    def pour(self) -> None:
        """One request came."""
        self._level = min(self._most, self._level + self._share)

    @property
    def some(self) -> bool:
        """Whether one can be taken."""
        return self._level >= 1 - 1e-9  # ten times 0.1 is a token

    def take(self) -> bool:
        """Take one, if there is one."""
        if not self.some:
            return False
        self._level -= 1
        return True

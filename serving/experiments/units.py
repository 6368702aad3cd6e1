"""Which units were counted already: who asks a thousand times is one unit, for those answers are not independent."""

from __future__ import annotations

import numpy as np

PLACES = 1 << 22  # bits: 512 KiB; with 100,000 units seen a new one is taken for an old one 1 time in 42, in any arm


class Seen:
    """A set of unit numbers in fixed memory. It never counts a unit twice; it may pass over a new one, whatever its
    arm, so that shares and rates stay what they are."""

    def __init__(self, bits: bytes | None = None) -> None:
        self._bits = np.zeros(PLACES // 8, np.uint8) if bits is None else np.frombuffer(bits, np.uint8).copy()

    def add(self, unit: int) -> bool:
        """Whether the unit is new; it is known from now on."""
        byte, bit = divmod(unit % PLACES, 8)
        if self._bits[byte] >> bit & 1:
            return False
        self._bits[byte] |= 1 << bit
        return True

    def bits(self) -> bytes:
        """What `Seen(bits)` takes."""
        return self._bits.tobytes()

"""How sure a share of few rows is."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # normal quantile of 0.975


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) without rows. It stays inside 0 to 1 for few rows."""
    if not rows:
        return 0.0, 1.0
    share, z2 = hits / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    # Without the two, rounding leaves 1e-17 where the interval touches its end.
    low = 0.0 if hits == 0 else middle - half
    return low, 1.0 if hits == rows else middle + half

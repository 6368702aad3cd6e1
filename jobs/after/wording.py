"""Numbers and names as people read them, the same in the terminal and on the page; what is not there is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cluster.measured import BASELINE, CONTROL, STUDENT, STUDENT_INT8, TEACHER

DASH = "\u2013"
MODELS: Mapping[str, str] = {
    TEACHER: "teacher",
    STUDENT: "student float",
    STUDENT_INT8: "student INT8",
    CONTROL: "control arm",
    BASELINE: "baseline",
}


def percent(share: float | None, digits: int = 1) -> str:
    """0.973 -> "97.3 %"."""
    return DASH if share is None else f"{share * 100:.{digits}f} %"


def points(share: float | None) -> str:
    """A difference of two shares: 0.021 -> "+2.1 points"."""
    return DASH if share is None else f"{share * 100:+.1f} points"


def count(number: float | None) -> str:
    """1_620_000 -> "1.62 M"."""
    return DASH if number is None else _scaled(number, ((1e9, "G"), (1e6, "M"), (1e3, "k")), "")


def size(number: float | None) -> str:
    """Bytes: 1_620_000 -> "1.62 MB"."""
    return DASH if number is None else _scaled(number, ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")), "B")


def milliseconds(value: float | None) -> str:
    """1.234 -> "1.23 ms"."""
    return (
        DASH
        if value is None
        else f"{value:.2g} ms"
        if value < 0.1
        else f"{value:.2f} ms"
        if value < 10
        else f"{value:.0f} ms"
    )


def seconds(value: float | None) -> str:
    """75.2 -> "1 min 15 s"."""
    if value is None:
        return DASH
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"


def times(factor: float | None) -> str:
    """1.66 -> "1.7x"."""
    return DASH if factor is None else f"{factor:.1f}x"


def plain(value: float | None) -> str:
    """Three significant digits: 0.97345 -> "0.973"."""
    return DASH if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def money(value: float | None) -> str:
    """Three significant digits, never an exponent: 1.35e-05 -> "0.0000135"."""
    if not value:
        return DASH if value is None else "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if abs(value) < 1000 else f"{value:,.0f}"


def limit(name: str, value: float | bool | None) -> str:
    """A gate's value or limit in the unit that its name says: latency_p95_ms, memory_max_bytes, retention_min, .."""
    if value is None or isinstance(value, bool):
        return DASH if value is None else "yes" if value else "no"
    for part, form in UNITS.items():
        if part in name:
            return form(value)
    return plain(value)


def _scaled(number: float, units: tuple[tuple[float, str], ...], base: str) -> str:
    for factor, unit in units:
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} {base}".strip()


def metric(name: str) -> str:
    """exact_match -> "exact match"."""
    return name.replace("_", " ")


# Part of a gate's name -> how its numbers are written; others stand as they are (a metric may be no share).
UNITS: Mapping[str, Callable[[float], str]] = {
    "_ms": milliseconds, "bytes": size, "speedup": times, "retention": percent, "agreement": percent, "share": percent,
    "drop": lambda value: percent(value, 2), "logit_error": percent, "above_control": points,
}  # fmt: skip

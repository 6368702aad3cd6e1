"""Whether the traffic, or the quality on it, is still what it was: histograms of inputs, windows of judged requests.

Pure. Inputs are compared with the version's own first requests, quality with its value at promotion.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.recipe.drift import DriftSection
from serving.experiments.events import Judged
from serving.experiments.sequential import interval

BITS = 3  # projections of a text: 2^3 buckets
OTHER = "other"
CLASSES = 20  # answers that have a bucket of their own


def psi(reference: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Population stability index sum (q - p) log(q / p) over buckets, p the reference's shares, q those of now (nats).

    Half a row is added to every bucket, so that an empty one is no infinity; two samples of n and m rows of one
    distribution with B buckets give about (B - 1)(1/n + 1/m). Yurdakul, "Statistical properties of the population
    stability index" (2018), equation 1.1.
    """
    buckets = set(reference) | set(now)
    total_p, total_q = (sum(one.values()) + len(buckets) / 2 for one in (reference, now))
    found = 0.0
    for bucket in buckets:
        p, q = ((one.get(bucket, 0) + 0.5) / total for one, total in ((reference, total_p), (now, total_q)))
        found += (q - p) * math.log(q / p)
    return found


def inputs(item: Mapping[str, Any], answer: str | None, confidence: float | None) -> dict[str, str]:
    """The bucket of a request in every input that is watched: length (doublings of characters), pictures (count),
    words (BITS signs of a random projection of its words), confidence (tenths) and answer; where there are media
    picture_bytes, sound_bytes, frame_bytes (doublings, of the mean file) and frames (doublings of their count).

    Only buckets leave the gateway, never content; an answer is one of a class's names or the first 40 characters of it.
    """
    text, images = str(item["text"]) if "text" in item else "", list(item["images"]) if "images" in item else []
    made = {"length": _doublings(len(text)), "pictures": str(len(images)), "words": projection(text)}
    files = {"picture": images, "sound": _given(item, "audio"), "frame": _given(item, "frames")}
    made |= {f"{name}_bytes": _doublings(sum(map(len, one)) // len(one)) for name, one in files.items() if one}
    if files["frame"]:
        made["frames"] = _doublings(len(files["frame"]))
    if confidence is not None:
        made["confidence"] = str(min(int(confidence * 10), 9))
    if answer is not None:
        made["answer"] = answer[:40]
    return made


def _given(item: Mapping[str, Any], name: str) -> list[bytes]:
    found = item.get(name)
    return [found] if isinstance(found, bytes) else list(found or ())


def _doublings(count: int) -> str:
    return str(count.bit_length())


def projection(text: str) -> str:
    """Signs of BITS fixed random projections of the text's bag of words, as "010"; the same words, the same signs."""
    sums = [0] * BITS
    for word in set(text.lower().split()):
        signs = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=2, person=b"drift").digest())
        for bit in range(BITS):
            sums[bit] += 1 if signs >> bit & 1 else -1
    return "".join("1" if one > 0 else "0" for one in sums)


@dataclass
class Inputs:
    """Histograms of a version's first requests, and of its last ones; every input by itself."""

    section: DriftSection
    reference: dict[str, Counter[str]] = field(default_factory=dict)
    recent: dict[str, deque[str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, str]) -> None:
        """One request's buckets."""
        for name, bucket in row.items():
            known = self.reference.setdefault(name, Counter())
            if known.total() < self.section.reference:
                known[bucket if len(known) < CLASSES or bucket in known else OTHER] += 1
            else:
                kept = self.recent.setdefault(name, deque(maxlen=self.section.window))
                kept.append(bucket if bucket in known else OTHER)

    def psi(self) -> dict[str, float]:
        """The index of every input whose window is full."""
        full = {name: kept for name, kept in self.recent.items() if len(kept) == self.section.window}
        return {name: psi(self.reference[name], Counter(kept)) for name, kept in full.items()}

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `restore` takes it up."""
        recent = {name: list(kept) for name, kept in self.recent.items()}
        return {"reference": {name: dict(known) for name, known in self.reference.items()}, "recent": recent}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on where `plain` was taken: with the same reference, or drift would be measured from itself."""
        self.reference = {name: Counter(known) for name, known in plain["reference"].items()}
        self.recent = {name: deque(kept, maxlen=self.section.window) for name, kept in plain["recent"].items()}


@dataclass(frozen=True)
class Fall:
    """Quality of the last judged requests against its value at promotion."""

    measure: str
    value: float
    reference: float
    drop: float
    rows: int
    window: tuple[int, int]
    detail: Mapping[str, Any]
    hard: Sequence[str]


class Quality:
    """One measure of a version: `reference` from its promotion, or its own first window where nothing is known.

    Windows do not overlap: what is judged is looked at once, so that one bad stretch is one alarm.
    """

    def __init__(self, measure: str, section: DriftSection, reference: float | None) -> None:
        self.measure, self.section, self.reference = measure, section, reference
        self._rows: list[Judged] = []
        self.last: Fall | None = None

    def add(self, row: Judged) -> Fall | None:
        """One judged request; what its window says when it fills one, alarm or not (`alarm`)."""
        self._rows.append(row)
        if len(self._rows) < self.section.window:
            return None
        rows, self._rows = self._rows, []
        value = sum(one.good for one in rows) / len(rows)
        if self.reference is None:
            self.reference = value
        low, high = interval(value * len(rows), len(rows), 0.05)
        drop = 1 - value / self.reference if self.reference else 0.0
        detail = {"low": low, "high": high, "limit": self.section.drop}
        at = [one.at_ms for one in rows]
        self.last = Fall(
            self.measure, value, self.reference, drop, len(rows), (min(at), max(at)), detail, self._hard(rows)
        )
        return self.last

    def plain(self) -> dict[str, Any]:
        """JSON-ready; `restore` takes it up."""
        last = None if self.last is None else asdict(self.last)
        return {"reference": self.reference, "rows": [asdict(one) for one in self._rows], "last": last}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on where `plain` was taken, in the middle of a window."""
        self.reference, self._rows = plain["reference"], [Judged(**one) for one in plain["rows"]]
        self.last = plain["last"] and Fall(**plain["last"] | {"window": tuple(plain["last"]["window"])})

    def alarm(self, fall: Fall) -> bool:
        """Whether this is the drop that DESIGN's decision 11 names."""
        return fall.drop > self.section.drop

    def _hard(self, rows: Sequence[Judged]) -> list[str]:
        """Ids of the hardest requests: the wrong ones first, the surest of them at the top, then the least sure."""
        order = sorted(rows, key=lambda one: (one.good, -one.confidence if one.good < 1 else one.confidence))
        return [one.request_id for one in order[: self.section.hard_samples]]

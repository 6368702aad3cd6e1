"""What is left of a model's answers when the input is as bad as at the edge, or one word of it is swapped.

Noise keeps the truth, so rows are scored against it. A swapped keyword changes the truth to nobody knows what, so the
student is held to the teacher's answer: a student that has learned the words answers as the teacher does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from cluster.measured import STUDENT_INT8, TEACHER
from cluster.recipe import Term
from jobs.data import augment
from jobs.data.variants import keywords
from jobs.measure import bootstrap, exam, metrics
from jobs.measure.exam import Exam

Ask = Callable[[Sequence[Mapping[str, Any]]], Sequence[str]]

# Kind of noise -> the parameter that says how strong, and its value at severity 1, 2 and 3.
SEVERITIES: Mapping[str, tuple[str, tuple[float, float, float]]] = {
    "gaussian_noise": ("sigma", (0.05, 0.1, 0.2)),
    "brightness": ("change", (0.2, 0.4, 0.6)),
    "occlusion": ("share", (0.05, 0.1, 0.25)),
    "clip_noise": ("sigma", (0.05, 0.1, 0.2)),
    "clip_brightness": ("change", (0.2, 0.4, 0.6)),
    "clip_occlusion": ("share", (0.05, 0.1, 0.25)),
    "time_jitter": ("share", (0.1, 0.2, 0.4)),
    "time_shift": ("share", (0.05, 0.1, 0.2)),
    "audio_noise": ("snr_db", (30.0, 20.0, 10.0)),
    "typos": ("share", (0.05, 0.1, 0.2)),
}


@dataclass(frozen=True)
class Sample:
    """Labelled request rows and who is asked about them: `asks` by model, the teacher where it is here."""

    requests: pa.Table
    asks: Mapping[str, Ask]
    draws: int
    seed: int


def sampled(requests: pa.Table, rows: int, seed: int) -> pa.Table:
    """`rows` labelled rows of a request table that are nobody's view, seeded choice in the table's order."""
    known = requests.filter(pc.and_(pc.is_valid(requests["label_name"]), pc.is_null(requests["parent"])))
    order = np.random.default_rng([seed, rows]).permutation(len(known))[:rows]
    return known.take(np.sort(order))


def measure(sample: Sample) -> dict[str, Any]:
    """`rows`, `clean` (share right by model) and `kinds`: every noise that fits the rows, at three severities."""
    clean = exam.of(sample.requests, None, sample.seed)
    right = {name: metrics.right(clean, ask(clean.items)) for name, ask in sample.asks.items()}
    place = {key: row for row, key in enumerate(clean.ids)}
    kinds = [
        _noisy(sample, kind, severity, {name: (own, place) for name, own in right.items()})
        for kind in SEVERITIES
        if _fits(sample.requests, augment.AUGMENTATIONS[kind].medium)
        for severity in (1, 2, 3)
    ]
    return {"rows": len(clean), "clean": {name: float(own.mean()) for name, own in right.items()},
            "kinds": [kind for kind in kinds if kind is not None]}  # fmt: skip


def _fits(requests: pa.Table, medium: str) -> bool:
    column = requests[augment.COLUMNS[medium]]
    return any(bool(value) for value in column.to_pylist())


def _noisy(
    sample: Sample, kind: str, severity: int, clean: Mapping[str, tuple[np.ndarray, Mapping[str, int]]]
) -> dict[str, Any] | None:
    """One line of the table: shares right on the rows that this noise changed, and the INT8 student's drop against the
    same rows without it, with its 95 % interval. None where it changed no row."""
    knob, values = SEVERITIES[kind]
    params: dict[str, JsonValue] = {knob: values[severity - 1], "labels": "inherit"}
    made = augment.augmented(sample.requests, [Term(name=kind, params=params)], sample.seed)
    if not len(made):
        return None
    rows, parents = exam.of(made, None, sample.seed), made["parent"].to_pylist()
    right = {name: metrics.right(rows, ask(rows.items)) for name, ask in sample.asks.items()}
    before, place = clean[STUDENT_INT8]
    same_rows = before[[place[parent] for parent in parents]]
    drop = bootstrap.difference(same_rows, right[STUDENT_INT8], sample.draws, sample.seed)
    return {"kind": kind, "medium": augment.AUGMENTATIONS[kind].medium, "severity": severity,
            "params": {knob: values[severity - 1]}, "rows": len(rows),
            **{name: float(own.mean()) for name, own in right.items()},
            "drop": drop["value"], "low": drop["low"], "high": drop["high"]}  # fmt: skip


def swaps(rows: Exam, asks: Mapping[str, Ask], pairs: Mapping[str, str], count: int) -> dict[str, Any] | None:
    """Texts with one keyword exchanged for its counterpart: how often the INT8 student says what the teacher says, on
    them and before (`agreement`, `agreement_clean`), and the share of each model's answers that `changed`.

    At most `count` rows that hold one of the words; None where none does.
    """
    rng = np.random.default_rng(len(rows))
    texts = [keywords.counterfactual(item["text"], pairs, rng) for item in rows.items]
    own = [row for row, text in enumerate(texts) if text != rows.items[row]["text"]][:count]
    if not own or TEACHER not in asks:
        return None
    plain = [rows.items[row] for row in own]
    swapped = [{**rows.items[row], "text": texts[row]} for row in own]
    before, after = ({name: ask(items) for name, ask in asks.items()} for items in (plain, swapped))
    return {
        "pairs": len(pairs),
        "rows": len(own),
        "agreement": metrics.agreement(after[STUDENT_INT8], after[TEACHER]),
        "agreement_clean": metrics.agreement(before[STUDENT_INT8], before[TEACHER]),
        "changed": {name: 1.0 - metrics.agreement(before[name], after[name]) for name in asks},
    }

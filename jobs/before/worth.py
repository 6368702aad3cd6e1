"""What a student is worth before anything is decided: exported as it would be served, asked, timed and weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs import export
from jobs.before import likely, teacher_exam
from jobs.measure import exam, latency, metrics
from jobs.measure.next_tokens import Likely
from jobs.packing import calibration
from jobs.step import Work
from serving.bundle import predict


@dataclass(frozen=True)
class Worth:
    """The objectives of a trained student (`quality` 0 to 1, `latency_ms` p50 at batch 1, `bytes` of the engine file),
    and per validation row whether the answer was right, bool [R]; of a language model instead how likely it finds the
    true texts (then `right_R` is empty)."""

    quality: float
    latency_ms: float
    bytes: int
    right_R: np.ndarray
    likely: Likely | None = None

    def objectives(self) -> dict[str, float]:
        """By name, for the search."""
        return {"quality": self.quality, "latency_ms": self.latency_ms, "bytes": float(self.bytes)}


def measure(work: Work, model: Path, folder: Path) -> Worth:
    """Export the student in `model` (HF folder) into the new `folder` and measure the bundle on validation rows alone.

    work: its parents are the samples and the curated set that the student learned from. Raises StepFailed where the
    export does.
    """
    recipe = work.recipe
    samples, curated = (work.parents[kind].path() for kind in ("samples", "curated"))
    export.tried_bundle(recipe, model, folder, lambda: calibration.curated_items(samples, curated))
    engine, section = predict.load(folder), recipe.search
    rows = exam.of(teacher_exam.rows_of(recipe), None, recipe.seed)
    items = latency.chosen(rows.items, section.latency_requests, recipe.seed)
    timed = latency.interleaved({"own": engine}, items, recipe.seed)["own"]
    size = export.engine_bytes(folder)
    if recipe.task == "text_generation":
        scorer: Any = engine  # a bundle of this task scores texts too
        scored = likely.of(recipe, scorer)
        return Worth(scored.likelihood, timed["p50"], size, np.zeros(0, bool), scored)
    right_R = metrics.right(rows, [engine.predict([item])[0].text for item in rows.items])
    return Worth(float(right_R.mean()), timed["p50"], size, right_R)


def facts(worth: Worth) -> Mapping[str, Any]:
    """JSON-ready, the rows packed as hexadecimal bits."""
    texts = {} if worth.likely is None else likely.facts(worth.likely)
    return {
        **worth.objectives(),
        **texts,
        "right": {"rows": len(worth.right_R), "bits": np.packbits(worth.right_R).tobytes().hex()},
    }


def right_of(found: Mapping[str, Any]) -> np.ndarray:
    """The rows of `facts`, bool [R]."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(found["right"]["bits"]), np.uint8))
    return bits[: found["right"]["rows"]].astype(bool)

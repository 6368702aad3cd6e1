"""What curation did, for people: measures of the set before and after, and `curation.html`, one page for any screen."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.after import page
from jobs.data.filters import Rows, words
from jobs.data.filters.diversity import spread

TEMPLATE = Path(__file__).with_name("curation.html.j2")
EXAMPLES = 3  # rows shown per reason
TEXT_MAX = 300  # characters of a text shown
PICTURE_MAX = 40_000  # bytes of a picture shown
CLASSES_MAX = 200  # classes counted; answers beyond are no classes but texts
OTHER = "(other)"
BINS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)  # margins: the last bin is what the teacher knows without doubt
Targets = Mapping[str, Mapping[str, float]]


def measure(rows: Rows, verdicts: pa.Table, targets: Targets) -> dict[str, Any]:
    """Facts for manifest and page: `diversity` and `words` before and after, `difficulty` bins, `targets` distances."""
    kept = np.asarray(verdicts["kept"].to_numpy(zero_copy_only=False), bool)
    parts = {"before": np.arange(len(kept)), "after": np.flatnonzero(kept)}
    prompts = rows.samples["prompt"].to_pylist()
    return {
        "diversity": {name: spread(rows.embeddings[places]) for name, places in parts.items()},
        "words": {name: distinct([prompts[place] for place in places]) for name, places in parts.items()},
        "difficulty": difficulty(verdicts),
        "targets": {column: distance(rows.samples.filter(pa.array(kept)), column, w) for column, w in targets.items()},
    }


def distinct(texts: Sequence[str]) -> dict[str, float]:
    """distinct-1 and distinct-2: different word n-grams over all word n-grams (Li et al. 2016), 0 without any."""
    hashes, counts = words.hashes(texts, words.Vocabulary())
    out = {}
    for size in (1, 2):
        grams = words.ngrams(hashes, counts, size)[0] if len(texts) else hashes
        out[f"distinct_{size}"] = len(np.unique(grams)) / len(grams) if len(grams) else 0.0
    return out


def difficulty(verdicts: pa.Table) -> list[dict[str, Any]]:
    """Rows in and kept by the teacher's margin, hardest bin first; the last bin includes its upper bound."""
    margin = verdicts["margin"].to_numpy()  # NaN for null, which is in no bin
    kept = np.asarray(verdicts["kept"].to_numpy(zero_copy_only=False), bool)
    all_rows, kept_rows = (np.histogram(values, BINS)[0].tolist() for values in (margin, margin[kept]))
    return [
        {"from": low, "to": high, "in": total, "kept": own}
        for low, high, total, own in zip(BINS, BINS[1:], all_rows, kept_rows, strict=False)
    ]


def distance(kept: pa.Table, column: str, wanted: Mapping[str, float]) -> dict[str, Any]:
    """The shares of a column's values beside those wanted (scaled to sum to 1), and the total variation distance
    1/2 sum |p - q| (0 to 1). Values that nobody asked for, and nulls, are wanted 0 and told together as "(other)"."""
    named = [OTHER if value is None or str(value) not in wanted else str(value) for value in kept[column].to_pylist()]
    counts, asked = Counter(named), sum(wanted.values())
    shares = {
        value: {"wanted": share / asked, "kept": counts[value] / max(1, len(named))}
        for value, share in {**wanted, OTHER: 0.0}.items()
        if share or counts[value]
    }
    return {"shares": shares, "distance": sum(abs(s["wanted"] - s["kept"]) for s in shares.values()) / 2}


def collect(samples: pa.Table, verdicts: pa.Table) -> dict[str, Any]:
    """What the page draws: confidences, prompt lengths (words) and class counts before and after, and up to three
    rows of every reason, the first and those spread over the rest."""
    kept = np.asarray(verdicts["kept"].to_numpy(zero_copy_only=False), bool)
    prompts = samples["prompt"].to_pylist()
    length = np.array([len(text.split()) for text in prompts])
    confidence = samples["confidence"].to_numpy().astype(np.float64)
    return {
        "kept": kept,
        "length": length,
        "confidence": confidence,
        "classes": _classes(samples["response"].to_pylist(), kept),
        "examples": _examples(samples, verdicts),
    }


def _classes(answers: Sequence[str | None], kept: np.ndarray) -> list[tuple[str, int, int]]:
    """(answer, rows in, rows kept), the largest first; empty where answers are texts of their own."""
    before = Counter(answer for answer in answers if answer is not None)
    if len(before) > min(CLASSES_MAX, len(answers) // 2):
        return []
    after = Counter(answer for answer, own in zip(answers, kept, strict=True) if own)
    return [(name, count, after[name]) for name, count in before.most_common()]


def _examples(samples: pa.Table, verdicts: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Per reason up to three rows, with the text of the row they repeat where it is a sample."""
    of: defaultdict[str, list[int]] = defaultdict(list)
    for row, reason in enumerate(verdicts["reason"].to_pylist()):
        if reason is not None:
            of[reason].append(row)
    place = {sample_id: row for row, sample_id in enumerate(samples["sample_id"].to_pylist())}
    out = {}
    for reason, found in sorted(of.items(), key=lambda item: -len(item[1])):
        shown = [found[(len(found) - 1) * turn // max(1, EXAMPLES - 1)] for turn in range(EXAMPLES)]
        out[reason] = [_example(samples, verdicts, row, place) for row in dict.fromkeys(shown)]
    return out


def _example(samples: pa.Table, verdicts: pa.Table, row: int, place: Mapping[str, int]) -> dict[str, Any]:
    sample = samples.select(["sample_id", "prompt", "images", "response", "label_name"]).slice(row, 1).to_pylist()[0]
    verdict = verdicts.select(["score", "twin", "confidence"]).slice(row, 1).to_pylist()[0]
    twin = verdict["twin"]
    known = twin is not None and twin in place
    return {
        "text": sample["prompt"][:TEXT_MAX],
        "images": [base64.b64encode(one).decode() for one in sample["images"] or () if len(one) <= PICTURE_MAX],
        "answer": (sample["response"] or "")[:TEXT_MAX],
        "truth": sample["label_name"],
        "score": verdict["score"],
        "confidence": verdict["confidence"],
        "twin": samples["prompt"][place[twin]].as_py()[:TEXT_MAX] if known else twin,
    }


def render(name: str, facts: Mapping[str, Any], collected: Mapping[str, Any]) -> str:
    """The page: self-contained HTML with inline SVG, readable on a phone and without a network."""
    from markupsafe import Markup

    from jobs.after import curation_plots

    plots = {key: Markup(svg) for key, svg in curation_plots.all_plots(facts, collected).items()}
    return page.filled(
        TEMPLATE, name=name, f=facts, plots=plots, examples=collected["examples"], classes=collected["classes"]
    )

"""The requests that a served student got wrong, in named slices: `jobs diff` over the traffic of a verdict's window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import tasks
from jobs.after import diff
from jobs.after.diff import facets, slices
from jobs.after.diff.sides import Asked, Said
from jobs.data.items import COLUMNS
from serving.traffic import log as traffic
from serving.traffic.verdicts import Verdict

# Medium of a task -> column of the traffic that it is kept in; a text is in `prompt`.
SHOWN = {"image": "images", "audio": "audio", "video": "frames"}


@dataclass(frozen=True)
class Mined:
    """What failed: the document of `jobs diff` with the reference first and the served student second, and the rows of
    its slices (request_id, label or None, reference, and what they show: `jobs.data.items`), worst slices first."""

    document: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def mine(store: Store, recipe: Recipe, verdict: Verdict) -> Mined:
    """Rows of the verdict's version and window whose right answer is known: from feedback, else from the teacher.

    All rows of a slice are taken, also those answered right: they say where the slice ends. Without any slice that
    stands out it is every row that was wrong. Raises StepFailed when nothing is known.
    """
    media = [SHOWN[medium] for medium in tasks.of(recipe).media if medium in SHOWN]
    found = _known(traffic.read(store, recipe.promote.model_name).to_pylist(), verdict, media or ["prompt"])
    if not found:
        kept = "traffic.share, traffic.media" if media else "traffic.share"
        hint = f"keep traffic ({kept}), ask the teacher beside the student, or send feedback with labels"
        raise StepFailed("watch", f"no request of version {verdict.version} has an answer to compare with", hint)
    rows = Asked(_requests(found), [row["label"] for row in found])
    reference = Said([row["reference"] for row in found], np.ones(len(found)))
    served = Said([row["answer"] for row in found], np.array([row["confidence"] or 0.0 for row in found]))
    document = diff.document(recipe, rows, reference, served)
    chosen = _chosen(found, rows, reference, served, set(verdict.request_ids))[: recipe.watch.mined_max]
    told = {"split": "traffic", "recipe": recipe.name, "first": "reference", "second": f"version {verdict.version}"}
    keys = ("request_id", *COLUMNS, "label", "reference")
    return Mined(told | document, [{key: found[place][key] for key in keys} for place in chosen])


def _known(rows: Sequence[Mapping[str, Any]], verdict: Verdict, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that the version answered itself and whose right answer is known as `reference`; `shown` are the columns
    without any of which they cannot be asked again."""
    first, last = verdict.window_start or 0, verdict.window_end or np.inf
    out = []
    for row in rows:
        reference = row["label"] if row["label"] is not None else row["teacher_answer"]
        own = row["version"] == verdict.version and not row["fell_back"] and first <= row["at"] <= last
        if own and any(row[name] for name in shown) and None not in (reference, row["answer"]):
            out.append({**row, "prompt": row["prompt"] or "", "reference": reference})
    return out


def _requests(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    made = [
        {"sample_id": row["request_id"], "split": "traffic", "slice": "traffic", "label_name": row["label"],
         "seed_row": place, "view": 0, "draw": 0, "temperature": 0.0, "seed": 0} | {name: row[name] for name in COLUMNS}
        for place, row in enumerate(rows)
    ]  # fmt: skip
    return schema.conform(pa.Table.from_pylist(made, schema.schema("requests")), "requests")


def _chosen(
    found: Sequence[Mapping[str, Any]], rows: Asked, reference: Said, served: Said, hard: set[str]
) -> list[int]:
    """Places of the rows to learn from: the hard ones that the verdict names, then slice by slice the wrong ones
    first; each once."""
    wrong_R = np.array([a != b for a, b in zip(reference.texts, served.texts, strict=True)], bool)
    named = slices.find(facets.all_of(rows, reference, served, None), reference, served)
    order = [place for place, row in enumerate(found) if row["request_id"] in hard]
    for slice_ in named:
        # A pair is the wrong rows alone; the class it turns from says where they belong.
        mask_R = slice_.facet.rows_R
        if slice_.facet.pair is not None:
            mask_R = np.array(reference.texts, object) == slice_.facet.pair[0]
        order += [*np.flatnonzero(mask_R & wrong_R).tolist(), *np.flatnonzero(mask_R & ~wrong_R).tolist()]
    return list(dict.fromkeys(order)) or np.flatnonzero(wrong_R).tolist()

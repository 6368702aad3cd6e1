"""A request row as a model is asked it: at training, in an exam and at a gateway the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("prompt", "images", "audio", "frames", "fps")  # what of a request a model is shown


def item_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """`text` and `images`, and where the row has them `audio` (WAV bytes), `frames` and `fps`.

    `row` is one of a request table with COLUMNS (`cluster.schema` "requests").
    """
    item = {"text": row["prompt"], "images": row["images"] or []}
    if row["audio"] is not None:
        item["audio"] = row["audio"]
    if row["frames"]:
        item |= {"frames": row["frames"], "fps": row["fps"]}
    return item

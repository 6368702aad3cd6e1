"""Golden samples: requests inside a bundle with the answers it gave when it was exported, to try on the target.

Another processor may compute other last bits with the same file; then words still have to be the same, and confidences
almost.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from serving.bundle.answer import Answer, BundleError
from serving.bundle.files import Source

FILE = "golden.json"
CONFIDENCE_ATOL = 0.02  # other kernels round INT8 sums otherwise: larger than that is another model
BINARY = ("audio",)  # fields of an item that are bytes
BINARIES = ("images", "frames")  # fields that are lists of bytes


def written(items: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> bytes:
    """The file: each request with its expected text and confidence (hexadecimal, so that every bit is kept)."""
    rows = [
        {"item": _plain(item), "text": answer.text, "confidence": answer.confidence.hex()}
        for item, answer in zip(items, answers, strict=True)
    ]
    return json.dumps(rows, indent=1).encode()


def read(source: Source) -> list[tuple[dict[str, Any], str, float]]:
    """Requests as `predict` takes them, with expected text and confidence. Raises BundleError: none, or unreadable."""
    try:
        rows = json.loads(source.read(FILE))
        return [(_item(row["item"]), str(row["text"]), float.fromhex(row["confidence"])) for row in rows]
    except BundleError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{FILE}: not readable golden samples ({error})") from error


def compare(samples: Sequence[tuple[Mapping[str, Any], str, float]], answers: Sequence[Answer]) -> dict[str, Any]:
    """`passed` (all texts equal, confidences within CONFIDENCE_ATOL), and how many of `samples` have the `same_text`,
    and the `same_bits` of confidence too (counts); `differs` names the first few that do not pass."""
    same_text = same_bits = 0
    differs = []
    for (item, text, confidence), answer in zip(samples, answers, strict=True):
        same_text += answer.text == text
        same_bits += answer.text == text and answer.confidence == confidence
        if answer.text != text or not math.isclose(answer.confidence, confidence, abs_tol=CONFIDENCE_ATOL):
            expected, got = [text, confidence], [answer.text, answer.confidence]
            differs.append({"text": str(item["text"])[:80], "expected": expected, "got": got})
    return {"passed": not differs, "samples": len(samples), "same_text": same_text, "same_bits": same_bits,
            "differs": differs[:5]}  # fmt: skip


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(item)
    for name, value in item.items():
        if name in BINARY:
            plain[name] = base64.b64encode(value).decode()
        elif name in BINARIES:
            plain[name] = [base64.b64encode(one).decode() for one in value]
    return plain


def _item(plain: Mapping[str, Any]) -> dict[str, Any]:
    item = dict(plain)
    for name, value in plain.items():
        if name in BINARY:
            item[name] = base64.b64decode(value)
        elif name in BINARIES:
            item[name] = [base64.b64decode(one) for one in value]
    return item

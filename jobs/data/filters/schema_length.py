"""Drops rows without a column they need, too short or too long, or written in other characters than expected."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters.rows import Rows, Verdicts

LAST_LATIN = "\u024f"  # end of Unicode's Latin Extended-B; all European languages in Latin letters lie below
CHARSETS = {"ascii": "\x7f", "latin": LAST_LATIN}


class Params(Section):
    """Bounds of the text of one column."""

    required: list[str] = Field(["prompt", "response"], description="columns that may be neither null nor blank")
    column: Literal["prompt", "response"] = Field("prompt", description="text that the bounds below are for")
    min_chars: int = Field(1, ge=0, description="shortest text (characters)")
    max_chars: int | None = Field(None, ge=1, description="longest text (characters); null: any")
    min_words: int = Field(1, ge=0, description="fewest words (count, split at spaces)")
    max_words: int | None = Field(None, ge=1, description="most words (count, split at spaces); null: any")
    charset: Literal["any", "ascii", "latin"] = Field("any", description="letters expected")
    charset_share: float = Field(0.9, ge=0, le=1, description="least share of letters that are of the charset")


def schema_length(rows: Rows, params: Params) -> Verdicts:
    """ "missing_COLUMN", "too_short", "too_long" or "wrong_charset"; the score is the length (characters or words) or
    the share of letters that failed. A required column that the table does not have is missing in every row."""
    samples = rows.samples
    reasons: list[str | None] = []
    scores = np.full(samples.num_rows, np.nan)
    needed = {
        name: samples[name].to_pylist() if name in samples.column_names else [None] * samples.num_rows
        for name in params.required
    }
    for row, text in enumerate(samples[params.column].to_pylist()):
        absent = next((name for name, values in needed.items() if _blank(values[row])), None)
        if absent is not None:
            reasons.append(f"missing_{absent}")
            continue
        reason, scores[row] = _bounds(text or "", params)
        reasons.append(reason)
    return Verdicts(reasons, scores)


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _bounds(text: str, params: Params) -> tuple[str | None, float]:
    chars = len(text)
    if chars < params.min_chars:
        return "too_short", chars
    if params.max_chars is not None and chars > params.max_chars:
        return "too_long", chars
    count = len(text.split())
    if count < params.min_words:
        return "too_short", count
    if params.max_words is not None and count > params.max_words:
        return "too_long", count
    if params.charset != "any":
        share = charset_share(text, params.charset)
        if share < params.charset_share:
            return "wrong_charset", share
    return None, chars


def charset_share(text: str, charset: str) -> float:
    """Share (0 to 1) of the letters of `text` that are of the charset "ascii" or "latin"; 1 without letters."""
    last = CHARSETS[charset]
    letters = [character for character in text if character.isalpha()]
    return sum(character <= last for character in letters) / len(letters) if letters else 1.0

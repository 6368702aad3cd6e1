"""Texts as words and hashes: what the text filters compare. Case, punctuation and spaces count for nothing.

Shape legend: R texts, W words of all texts, G word n-grams of all texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.data import cells

MEDIA = ("images", "audio", "frames")  # columns of a request that hold files
_WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: spreads neighbouring values over all bits


class Vocabulary(dict[str, int]):
    """Word -> 64-bit hash, the same in every process; each distinct word is hashed once."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = value
        return value


def split(text: str) -> list[str]:
    """Words in lower case: runs of letters, digits and underscores of any script."""
    return _WORD.findall(text.lower())


def hashes(texts: Sequence[str], vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all words uint64 [W] and the words per text int64 [R]; a text without words counts as one word."""
    words: list[str] = []
    counts = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        own = split(text) or [" ".join(text.split())]  # "???" and "!!!" are two different texts
        counts[row] = len(own)
        words += own
    return np.fromiter(map(vocabulary.__getitem__, words), np.uint64, len(words)), counts


def ngrams(words_W: np.ndarray, counts_R: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every run of `size` words uint64 [G] and the runs per text int64 [R]; a shorter text is one run."""
    runs_R = np.maximum(counts_R - size + 1, 1)
    first_R = np.cumsum(counts_R) - counts_R
    inside_G = np.arange(runs_R.sum()) - np.repeat(np.cumsum(runs_R) - runs_R, runs_R)
    start_G, last_G = np.repeat(first_R, runs_R) + inside_G, np.repeat(first_R + counts_R, runs_R)
    out_G = np.zeros(len(start_G), np.uint64)
    for offset in range(size):
        place_G = start_G + offset
        there_G = place_G < last_G
        step_G = (out_G ^ words_W[np.where(there_G, place_G, 0)]) * _MIX
        out_G = np.where(there_G, step_G ^ (step_G >> np.uint64(29)), out_G)
    return out_G, runs_R


def whole(words_W: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """A hash of every text as a sequence of words uint64 [R]."""
    first_R = np.cumsum(counts_R) - counts_R
    place_W = (np.arange(len(words_W)) - np.repeat(first_R, counts_R) + 1).astype(np.uint64)
    mixed_W = (words_W ^ (place_W * _MIX)) * _MIX
    out: np.ndarray = np.add.reduceat(mixed_W ^ (mixed_W >> np.uint64(29)), first_R) if len(first_R) else words_W[:0]
    return out


def picture_keys(samples: pa.Table) -> np.ndarray:
    """A hash of each row's pictures, sound and frames uint64 [R], 0 without any: questions over different ones are
    different."""
    out = np.zeros(samples.num_rows, np.uint64)
    names = [name for name in MEDIA if name in samples.column_names and samples[name].null_count < samples.num_rows]
    if not names:
        return out
    for row, shown in enumerate(samples.select(names).to_pylist()):
        if media := _media(shown):
            key = hashlib.blake2b(digest_size=8)
            for medium in media:
                key.update(hashlib.sha256(medium).digest())
            out[row] = int.from_bytes(key.digest(), "little")
    return out


def _media(row: Mapping[str, Any]) -> list[bytes]:
    """The files of a row, of the columns MEDIA that it has."""
    held = [row[name] for name in MEDIA if row.get(name)]
    return [one for own in held for one in ([own] if isinstance(own, bytes) else own)]


def input_keys(samples: pa.Table) -> list[bytes]:
    """Per row what it asks, case and spaces folded, over its pictures, sound and frames, as a hash of 32 bytes."""
    keys = []
    for row in samples.select(["prompt", *(name for name in MEDIA if name in samples.column_names)]).to_pylist():
        key = hashlib.sha256(cells.folded(row["prompt"] or "").encode())
        for medium in _media(row):
            key.update(hashlib.sha256(medium).digest())
        keys.append(key.digest())
    return keys

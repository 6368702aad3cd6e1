"""MinHash with locality-sensitive hashing: which texts share most of their word n-grams, at about 1 KB a row.

Broder 1997 (resemblance), Leskovec et al., Mining of Massive Datasets, ch. 3 (bands). The bands only propose pairs;
every pair is decided by the exact Jaccard similarity of the two n-gram sets, so a wrong hash never costs a row.
Signatures are made here and not by `rensa`: its digests come out as Python lists, and with that it took longer.

Shape legend: R texts, G n-grams of all texts, B bands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.data.filters import words

BLOCK = 8192  # texts hashed at once: bounds the memory beside the index


@dataclass(frozen=True)
class Shape:
    """`threshold` Jaccard (0 to 1) above or at which two texts are alike, word n-gram size, hash functions, least
    chance of proposing a pair exactly at the threshold, and the seed of the hash functions."""

    threshold: float = 0.7
    ngram: int = 2
    permutations: int = 128
    recall: float = 0.99
    seed: int = 0

    def bands(self) -> tuple[int, int]:
        """Bands and hashes per band: the most hashes (fewest false pairs) that still reach `recall` at `threshold`,
        which is 1 - (1 - t^rows)^bands; one hash per band where none does."""
        for width in range(self.permutations, 1, -1):
            bands = self.permutations // width
            if 1 - (1 - self.threshold**width) ** bands >= self.recall:
                return bands, width
        return self.permutations, 1


class Index:
    """Texts added in blocks, then asked which ones repeat an earlier one.

    It holds B band keys (8 bytes) and the n-gram hashes (8 bytes each) per text, not the texts.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.bands, self.width = shape.bands()
        rng = np.random.default_rng([shape.seed, shape.permutations])
        self._factor = rng.integers(0, 2**32, self.bands * self.width, np.uint32) | np.uint32(1)
        self._offset = rng.integers(0, 2**32, self.bands * self.width, np.uint32)
        self._vocabulary = words.Vocabulary()
        self._keys: list[np.ndarray] = []
        self._grams: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add(self, texts: Sequence[str], salt_R: np.ndarray | None = None) -> None:
        """Take in texts in order; those of a different `salt` uint64 [R] (pictures they ask about) are never alike."""
        for start in range(0, len(texts), BLOCK):
            part = slice(start, start + BLOCK)
            hashes, counts = words.hashes(texts[part], self._vocabulary)
            grams, runs = words.ngrams(hashes, counts, self.shape.ngram)
            if salt_R is not None:
                grams = grams ^ np.repeat(salt_R[part], runs)
            self._keys.append(self._band_keys(grams, np.cumsum(runs) - runs))
            self._grams.append(grams)
            self._counts.append(runs)

    def _band_keys(self, grams_G: np.ndarray, first_R: np.ndarray) -> np.ndarray:
        """uint64 [R, B]: the hash of each band of every text's signature."""
        low_G = (grams_G >> np.uint64(32)).astype(np.uint32)
        out = np.zeros((len(first_R), self.bands), np.uint64)
        for number, (factor, offset) in enumerate(zip(self._factor, self._offset, strict=True)):
            smallest_R = np.minimum.reduceat(low_G * factor + offset, first_R)
            band = number // self.width
            mixed = (out[:, band] ^ smallest_R) * np.uint64(0x9E3779B97F4A7C15)
            out[:, band] = mixed ^ (mixed >> np.uint64(29))
        return out

    def repeats(self, groups: np.ndarray | None = None, references: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Per text the earlier kept text that it repeats int64 [R] (-1: none; the most alike one) and their Jaccard
        similarity float64 [R] (0 without one).

        Greedy in order: a text that repeats one is not kept, so nothing is refused for being like a refused text.
        Texts of one group of `groups` int64 [R] are never compared. With `references`, the first so many texts are
        what the others are compared with, and no others.
        """
        count = sum(len(part) for part in self._counts)
        twin, jaccard = np.full(count, -1, np.int64), np.zeros(count)
        if not count:
            return twin, jaccard
        sets: dict[int, frozenset[int]] = {}
        buckets: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(self.bands)]
        for row, shared, keys, words_of in self._suspects():
            mine = [(buckets[band], keys[band]) for band in shared]
            if row >= references:
                near = {other for bucket, key in mine if key in bucket for other in bucket[key]}
                if groups is not None:
                    near = {other for other in near if groups[other] != groups[row]}
                twin[row], jaccard[row] = _nearest(words_of, near, sets, self.shape.threshold)
            if row < references or (not references and twin[row] < 0):
                sets[row] = words_of
                for bucket, key in mine:
                    bucket[key].append(row)
        return twin, jaccard

    def _suspects(self) -> Iterator[tuple[int, list[int], list[int], frozenset[int]]]:
        """Every text that shares a band with another, in order: its place, those bands, all band keys, its n-grams.

        Few texts do, so this is all that is taken out of the blocks, band by band: no second copy of the index.
        """
        shared_RB = np.stack(
            [_shared(np.concatenate([keys[:, b] for keys in self._keys])) for b in range(self.bands)], 1
        )
        start = 0
        for keys, grams, counts in zip(self._keys, self._grams, self._counts, strict=True):
            last = np.cumsum(counts)
            here_RB = shared_RB[start : start + len(counts)]
            for row in np.flatnonzero(here_RB.any(1)).tolist():
                own = frozenset(grams[last[row] - counts[row] : last[row]].tolist())
                yield start + row, np.flatnonzero(here_RB[row]).tolist(), keys[row].tolist(), own
            start += len(counts)


def _shared(keys_R: np.ndarray) -> np.ndarray:
    """bool [R]: whether another text has the same key."""
    order = np.argsort(keys_R)
    same = keys_R[order[1:]] == keys_R[order[:-1]]
    out = np.zeros(len(keys_R), bool)
    out[order[1:][same]] = True
    out[order[:-1][same]] = True
    return out


def _nearest(
    own: frozenset[int], near: Iterable[int], sets: dict[int, frozenset[int]], threshold: float
) -> tuple[int, float]:
    """The most alike of `near` at or above the threshold, the earliest of equals; (-1, 0) without one."""
    best, value = -1, 0.0
    for other in sorted(near):
        common = len(own & sets[other])
        alike = common / (len(own) + len(sets[other]) - common)
        if alike >= threshold and alike > value:
            best, value = other, alike
    return best, value

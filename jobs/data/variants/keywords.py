"""Replaces whole words by the recipe's lists: counterfactuals ("cat" -> "dog") and other entities of the same kind.

The words around stay byte for byte, and the new word takes the old one's capitals. What the changed text means is asked
of the teacher: a variant has no true label.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np


def counterfactual(text: str, pairs: Mapping[str, str], rng: np.random.Generator) -> str:
    """`text` with one of the pairs' words, if it has any, replaced by its partner everywhere, and the partner by it."""
    both = dict(pairs) | {value: key for key, value in pairs.items()}
    found = _found(text, both)
    if not found:
        return text
    word = found[int(rng.integers(len(found)))]
    partner = {word.lower(): both[word.lower()], both[word.lower()].lower(): word.lower()}
    return _pattern(tuple(sorted(partner))).sub(lambda hit: _like(hit[0], partner[hit[0].lower()]), text)


def entity(text: str, kinds: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    """`text` with one name of the recipe's lists replaced everywhere by another of its list."""
    owner = {name.lower(): names for names in kinds.values() for name in names}
    found = _found(text, owner)
    if not found:
        return text
    word = found[int(rng.integers(len(found)))]
    others = [name for name in owner[word.lower()] if name.lower() != word.lower()]
    if not others:
        return text
    chosen = others[int(rng.integers(len(others)))]
    return _pattern((word.lower(),)).sub(lambda hit: _like(hit[0], chosen), text)


def _found(text: str, words: Mapping[str, object]) -> list[str]:
    """The listed words that occur in a text, each once, in order of their first place."""
    if not words:
        return []
    return list(dict.fromkeys(hit[0].lower() for hit in _pattern(tuple(sorted(words))).finditer(text)))


@functools.lru_cache(maxsize=256)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def _like(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new

"""Real handwritten digits with questions: the embedded, offline data of the default recipe.

Pictures are scikit-learn's `load_digits` (1,797 scans, 8x8, UCI "Optical Recognition of Handwritten Digits"), split by
picture, so no picture of the test split is ever seen in training. Questions over one picture and over two; numbers in
answers are spelled digit by digit ("one six").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": 1293, "validation": 144, "test": 360}  # pictures, 72 / 8 / 20 %
PIXELS = 8


@dataclass(frozen=True)
class Question:
    """One kind of question: `arity` pictures, wordings with an optional `{n}`, the answer from digits a, b and n."""

    slice: str
    arity: int
    wordings: tuple[str, ...]
    answer: Callable[[int, int, int], str]


def spell(number: int) -> str:
    """A non-negative number digit by digit: 16 -> "one six"."""
    return " ".join(WORDS[int(digit)] for digit in str(number))


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


QUESTIONS = (
    Question("digit", 1, ("what digit is this ?", "which digit is it ?"), lambda a, b, n: spell(a)),
    Question("even", 1, ("is it even ?", "is this digit even ?"), lambda a, b, n: _yes(a % 2 == 0)),
    Question("odd", 1, ("is it odd ?", "is this digit odd ?"), lambda a, b, n: _yes(a % 2 == 1)),
    Question("greater", 1, ("is it greater than {n} ?",), lambda a, b, n: _yes(a > n)),
    Question("plus", 1, ("what is this plus {n} ?",), lambda a, b, n: spell(a + n)),
    Question("times", 1, ("what is this times two ?",), lambda a, b, n: spell(2 * a)),
    Question("after", 1, ("which digit comes after this ?",), lambda a, b, n: spell((a + 1) % 10)),
    Question("sum", 2, ("what is the sum ?", "what is this plus that ?"), lambda a, b, n: spell(a + b)),
    Question("same", 2, ("is it the same digit ?",), lambda a, b, n: _yes(a == b)),
    Question("larger", 2, ("which is larger ?",), lambda a, b, n: "equal" if a == b else spell(max(a, b))),
)
ONE = tuple(q.slice for q in QUESTIONS if q.arity == 1)
TWO = tuple(q.slice for q in QUESTIONS if q.arity == 2)


@dataclass(frozen=True)
class Pictures:
    """All pictures: uint8 [1797, 8, 8] with 0..255, their digit [1797], and the picture numbers of each split.

    The further split "labelled" is the part of "train" whose digits count as known.
    """

    pixels: np.ndarray
    digits: np.ndarray
    splits: dict[str, np.ndarray]


def pictures(labelled_share: float = 1.0) -> Pictures:
    """Read the scans and split them by a fixed permutation, the same on every machine.

    Of the training pictures the first `labelled_share` count as labelled.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(1797).permutation(len(data.target))
    ends = np.cumsum(list(SPLITS.values()))
    splits = dict(zip(SPLITS, np.split(order, ends[:-1]), strict=True))
    splits["labelled"] = splits["train"][: round(labelled_share * SPLITS["train"])]
    pixels = np.round(data.images * 255 / 16).astype(np.uint8)
    return Pictures(pixels, data.target.astype(np.int64), splits)


@dataclass(frozen=True)
class Drawn:
    """Questions drawn over pictures: `first`/`second` are picture numbers (second is -1 for one-picture questions)."""

    first: np.ndarray
    second: np.ndarray
    prompt: list[str]
    answer: list[str]
    slice: list[str]


def joined(parts: Sequence[Drawn], count: int) -> Drawn:
    """The first `count` questions of all parts."""
    texts = [[text for part in parts for text in getattr(part, name)] for name in ("prompt", "answer", "slice")]
    first, second = (np.concatenate([getattr(part, name) for part in parts]) for name in ("first", "second"))
    return Drawn(first[:count], second[:count], *(own[:count] for own in texts))


def draw(source: Pictures, split: str, count: int, seed: int, two_share: float = 0.4) -> Drawn:
    """`count` questions over one split, the same for the same seed; a quarter of "same"/"larger" pairs are alike.

    The second picture is labelled where the first one is, so that a question's answer is known or it is not.
    """
    rng = np.random.default_rng([seed, count])
    pool, known = source.splits[split], np.isin(np.arange(len(source.digits)), source.splits["labelled"])
    kinds = [q for q in QUESTIONS if q.arity == 1], [q for q in QUESTIONS if q.arity == 2]
    first, second, prompt, answer, slices = rng.choice(pool, count), np.full(count, -1), [], [], []
    for row in range(count):
        group = kinds[int(rng.random() < two_share)]
        question = group[rng.integers(len(group))]
        if question.arity == 2:
            alike = question.slice != "sum" and rng.random() < 0.25
            choice = pool[known[pool] == known[first[row]]]
            choice = choice[source.digits[choice] == source.digits[first[row]]] if alike else choice
            second[row] = rng.choice(choice)
        n = int(rng.integers(1, 9))
        a, b = int(source.digits[first[row]]), int(source.digits[second[row]])
        prompt.append(str(rng.choice(question.wordings)).format(n=WORDS[n]))
        answer.append(question.answer(a, b, n))
        slices.append(question.slice)
    return Drawn(first, second, prompt, answer, slices)


def views(pixels_NHW: np.ndarray, rng: np.random.Generator, shift: float, turn: float, scale: float) -> np.ndarray:
    """One random view per picture, uint8 [N, H, W]: moved by up to `shift` (share of the side), turned by up to `turn`
    degrees and zoomed by up to `scale` (share), bilinear, zeros outside."""
    count, side, _ = pixels_NHW.shape
    angle = np.deg2rad(rng.uniform(-turn, turn, count))
    zoom = 1 + rng.uniform(-scale, scale, count)
    move = rng.uniform(-shift, shift, (2, count)) * side
    centre = (side - 1) / 2
    ys, xs = np.mgrid[:side, :side].astype(np.float64) - centre
    cos, sin = (np.cos(angle) / zoom)[:, None, None], (np.sin(angle) / zoom)[:, None, None]
    y: np.ndarray = cos * ys - sin * xs + centre + move[0][:, None, None]
    x: np.ndarray = sin * ys + cos * xs + centre + move[1][:, None, None]
    padded = np.pad(pixels_NHW.astype(np.float32), ((0, 0), (1, 2), (1, 2)))
    y, x = np.clip(y, -1, side) + 1, np.clip(x, -1, side) + 1
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx, row = y - y0, x - x0, np.arange(count)[:, None, None]
    top = padded[row, y0, x0] * (1 - fx) + padded[row, y0, x0 + 1] * fx
    low = padded[row, y0 + 1, x0] * (1 - fx) + padded[row, y0 + 1, x0 + 1] * fx
    seen: np.ndarray = np.round(top * (1 - fy) + low * fy).astype(np.uint8)
    return seen

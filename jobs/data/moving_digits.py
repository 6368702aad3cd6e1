"""Clips built from real digits, with questions that no single frame answers: which came first, which way it moved.

A clip is one of two kinds. In a *walk* one of scikit-learn's 1,797 scans moves over a black canvas and comes in again
where it leaves: wherever it is, it may be going anywhere. In a *parade* several scans stand in the middle one after the
other. Scans are split before clips are made of them, so nothing of a
test clip was ever seen in training; every answer follows from the known digits.

Shape legend: K frames, S side of the canvas (pixels), U frames of all clips.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data import digits
from jobs.data.digits import PIXELS, WORDS
from jobs.data.questions import NONE, Asked, Bank

SIDE = 16  # pixels: a scan of 8, and room to move
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SPLIT_SEEDS = {"train": 31, "validation": 37, "test": 41}
# Slice -> wordings; {d} is a digit, {w} a direction. "digit" is answered by any frame and comes first in a curriculum.
WORDING: Mapping[str, Sequence[str]] = {
    "digit": ("which digit moves ?", "what digit is in the video ?"),
    "direction": ("where does the digit move ?", "which way does it go ?"),
    "moved": ("does it move {w} ?", "is the digit moving {w} ?"),
    "first": ("which digit came first ?", "what is the first digit ?"),
    "last": ("which digit came last ?", "what is the last digit ?"),
    "before": ("does {d} come before {e} ?", "is {d} shown before {e} ?"),
    "after": ("which digit comes after {d} ?", "what follows {d} ?"),
    "count": ("how many times does {d} appear ?", "how often is {d} shown ?"),
}
WALK, PARADE = ("digit", "direction", "moved"), ("first", "last", "before", "after", "count")
MANY_FRAMES = ("direction", "moved", "before", "after", "count")  # what no single frame answers


class Clips(Section):
    """How many clips there are and how long they last; each clip is asked about once."""

    train: int = Field(12_000, ge=20, description="clips over the training scans (rows)")
    validation: int = Field(600, ge=20, description="clips over the validation scans (rows)")
    test: int = Field(1_500, ge=20, description="clips over the test scans (rows)")
    frames: int = Field(6, ge=6, le=12, multiple_of=2, description="frames of a clip (count)")
    fps: float = Field(2.0, gt=0, description="frames per second")


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [K, S, S], a question with its slice and answer, and what each frame shows: (digit, top, left)."""

    frames: np.ndarray
    slice: str
    text: str
    answer: str
    shown: Sequence[tuple[int, int, int]]


def bank(params: Clips) -> Bank:
    """All clips as a bank; the same ones on every machine."""
    source = digits.pictures()
    pixels: list[np.ndarray] = []
    splits: dict[str, Asked] = {}
    for split, seed in SPLIT_SEEDS.items():
        count, start = int(getattr(params, split)), sum(map(len, pixels))
        made = draw(source, split, count, params.frames, seed)
        pixels += [clip.frames for clip in made]
        places = [tuple(range(start + row * params.frames, start + (row + 1) * params.frames)) for row in range(count)]
        splits[split] = Asked(
            [clip.text for clip in made], [clip.answer for clip in made], [clip.slice for clip in made],
            [()] * count, places, np.full(count, NONE), np.full(count, params.fps, np.float32), np.arange(count),
        )  # fmt: skip
    return Bank(np.repeat(np.concatenate(pixels)[..., None], 3, -1), [], 0, splits, ())


def draw(source: digits.Pictures, split: str, count: int, frames: int, seed: int) -> list[Clip]:
    """`count` clips of `frames` frames over one split's scans, kinds of questions in equal parts."""
    rng = np.random.default_rng([seed, count, frames])
    pool = source.splits[split]
    by_digit = [pool[source.digits[pool] == digit] for digit in range(10)]
    clips = []
    for row in range(count):
        name = (*WALK, *PARADE)[row % len(WORDING)]
        make = _walk if name in WALK else _parade
        clips.append(make(name, source.pixels, by_digit, frames, rng))
    return [clips[place] for place in rng.permutation(count)]


def _walk(name: str, scans: np.ndarray, by_digit: Sequence[np.ndarray], frames: int, rng: np.random.Generator) -> Clip:
    """One scan that moves one or two pixels a frame in one direction, over a canvas whose edges are joined."""
    digit = int(rng.integers(10))
    scan = scans[rng.choice(by_digit[digit])]
    way = str(rng.choice(list(DIRECTIONS)))
    step = np.array(DIRECTIONS[way]) * int(rng.integers(1, 3))
    start = rng.integers(0, SIDE, 2)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[:PIXELS, :PIXELS] = scan
    places = [(start + step * number) % SIDE for number in range(frames)]
    shown = [(digit, int(top), int(left)) for top, left in places]
    seen = np.stack([np.roll(canvas, (top, left), (0, 1)) for _, top, left in shown])
    asked = way if rng.random() < 0.5 else str(rng.choice([other for other in DIRECTIONS if other != way]))
    answer = {"digit": WORDS[digit], "direction": way, "moved": "yes" if asked == way else "no"}[name]
    return Clip(seen, name, str(rng.choice(WORDING[name])).format(w=asked), answer, shown)


def _parade(
    name: str, scans: np.ndarray, by_digit: Sequence[np.ndarray], frames: int, rng: np.random.Generator
) -> Clip:
    """Scans of different digits, one per frame: `before` and `after` ask about four that come one after the other, so
    that the first frame seldom shows what is asked about; the others about two or three in any order."""
    if name in ("before", "after"):
        shown = rng.choice(10, 4, replace=False)
        order = np.repeat(shown, 1 + rng.multinomial(frames - 4, [0.25] * 4))
    else:
        shown = rng.choice(10, int(rng.integers(2, 4)), replace=False)
        order = rng.permutation(np.concatenate([shown, rng.choice(shown, frames - len(shown))]))
    low = (SIDE - PIXELS) // 2
    seen = np.zeros((frames, SIDE, SIDE), np.uint8)
    for number, digit in enumerate(order.tolist()):
        seen[number, low : low + PIXELS, low : low + PIXELS] = scans[rng.choice(by_digit[digit])]
    places, leader = rng.choice(len(shown), 2, replace=False), int(rng.integers(len(shown) - 1))
    one, other = (shown[leader], shown[leader]) if name == "after" else shown[places]
    answer = {
        "first": WORDS[order[0]], "last": WORDS[order[-1]], "before": "yes" if places[0] < places[1] else "no",
        "after": WORDS[shown[leader + 1]], "count": WORDS[int((order == one).sum())],
    }[name]  # fmt: skip
    text = str(rng.choice(WORDING[name])).format(d=WORDS[one], e=WORDS[other])
    return Clip(seen, name, text, answer, [(int(digit), low, low) for digit in order])


def single_frame(known: Sequence[Clip], asked: Sequence[Clip]) -> dict[str, float]:
    """Share of `asked` answered by the best that one frame can do, by slice, 0 to 1.

    For each slice the frame number and the sight of it (its digit, where it is, both, neither) are taken that help
    most: the commonest answer among `known` clips that show the same there and ask the same of it.
    """
    best: dict[str, float] = defaultdict(float)
    for number, sight in itertools.product(range(len(known[0].shown)), SIGHTS):
        seen: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
        for clip in known:
            seen[_asked(clip, sight(*clip.shown[number]))][clip.answer] += 1
        right: dict[str, list[bool]] = defaultdict(list)
        for clip in asked:
            found = _asked(clip, sight(*clip.shown[number]))
            right[clip.slice].append(found in seen and seen[found].most_common(1)[0][0] == clip.answer)
        for name, hits in right.items():
            best[name] = max(best[name], sum(hits) / len(hits))
    return dict(best)


SIGHTS: Sequence[Callable[[int, int, int], object]] = (
    lambda digit, top, left: None,
    lambda digit, top, left: digit,
    lambda digit, top, left: (top, left),
    lambda digit, top, left: (digit, top, left),
)


def _asked(clip: Clip, sight: object) -> tuple[object, ...]:
    """A question whichever way it is worded (its slice and direction), and for every digit it names whether that is
    the one seen, which is all that a digit's name says about a frame."""
    words = clip.text.split()
    named = [WORDS.index(word) == sight if isinstance(sight, int) else word for word in words if word in WORDS]
    return (clip.slice, *(word for word in words if word in DIRECTIONS), *named, sight)

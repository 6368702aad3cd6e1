"""A hurried thumb: letters replaced by their neighbours on a QWERTY keyboard."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.data.augment.params import Augmentation

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each row stands half a key to the right of the one above


class Params(Augmentation):
    """How often."""

    share: float = Field(0.05, gt=0, le=1, description="letters replaced (share of a to z); at least one of them")


def _neighbours() -> dict[str, str]:
    """Letter -> the letters that touch its key."""
    place = {key: (x + y / 2, y) for y, keys in enumerate(KEYBOARD) for x, key in enumerate(keys)}
    return {
        key: "".join(other for other, (a, b) in place.items() if other != key and abs(a - x) <= 1 and abs(b - y) <= 1)
        for key, (x, y) in place.items()
    }


NEIGHBOURS = _neighbours()


def typos(text: str, params: Params, rng: np.random.Generator) -> str:
    """A text of the same length; case is kept, what is no letter of the keyboard too. Without one, the text itself."""
    letters = list(text)
    places = [place for place, letter in enumerate(letters) if letter.lower() in NEIGHBOURS]
    if not places:
        return text
    hit = rng.random(len(places)) < params.share
    if not hit.any():
        hit[rng.integers(len(places))] = True
    for place in np.array(places)[hit]:
        near = NEIGHBOURS[letters[place].lower()]
        made = near[rng.integers(len(near))]
        letters[place] = made.upper() if letters[place].isupper() else made
    return "".join(letters)

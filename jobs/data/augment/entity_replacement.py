"""Another name in the same place: a city for a city, a card brand for a card brand, from the recipe's own lists."""

from __future__ import annotations

import re
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from jobs.data.augment.params import Augmentation


class Params(Augmentation):
    """Which words may stand for each other."""

    lists: dict[str, list[str]] = Field(
        min_length=1, description="name of a list -> its members, words or phrases; each may replace any other"
    )

    @model_validator(mode="after")
    def every_list_offers_a_choice(self) -> Self:
        """Refuse lists of fewer than two different members, empty members, and a member of two lists."""
        seen: set[str] = set()
        for name, members in self.lists.items():
            folded = {member.strip().lower() for member in members}
            if len(folded) < 2 or "" in folded:
                raise ValueError(f"at least two different members in {name}, none of them empty")
            if folded & seen:
                raise ValueError(f"each member in one list only: {', '.join(sorted(folded & seen))}")
            seen |= folded
        return self


def entity_replacement(text: str, params: Params, rng: np.random.Generator) -> str:
    """The text with every member found in it (whole words, any case, longest first) replaced by another of its list.

    The same member is replaced by the same other everywhere in a text; without any member it is the text itself.
    """
    owner = {member.strip().lower(): members for members in params.lists.values() for member in members}
    longest_first = sorted(owner, key=lambda member: (-len(member), member))
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)", re.IGNORECASE)
    chosen: dict[str, str] = {}

    def other(found: re.Match[str]) -> str:
        member = found.group().lower()
        if member not in chosen:
            others = [one for one in owner[member] if one.strip().lower() != member]
            chosen[member] = others[rng.integers(len(others))].strip()
        return chosen[member]

    return pattern.sub(other, text)

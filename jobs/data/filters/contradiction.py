"""Drops rows that ask the same and are answered differently; stands before `duplicate`, which would drop the proof."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Literal

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters import words
from jobs.data.filters.minhash import Index, Shape
from jobs.data.filters.rows import Rows, Verdicts


class Params(Section):
    """What counts as the same question, and who is refused."""

    answer: Literal["response", "label_name"] = Field("response", description="column of the answers compared")
    threshold: float = Field(1.0, gt=0, le=1, description="Jaccard similarity from which inputs are the same; 1: exact")
    ngram: int = Field(2, ge=1, description="words per n-gram (count), below 1.0 only")
    refuse: Literal["all", "minority"] = Field(
        "all", description="all: every row of a group that disagrees; minority: all but its commonest answer, if one is"
    )


def contradiction(rows: Rows, params: Params) -> Verdicts:
    """ "contradiction" for refused rows; the score is the share of the row's group that answers as it does. Rows
    without an answer contradict nobody. Views count: the teacher that changes its mind over them is unsure."""
    answers = rows.samples[params.answer].to_pylist()
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row, (group, answer) in enumerate(zip(_groups(rows, params).tolist(), answers, strict=True)):
        if answer is not None:
            members[group].append(row)
    reasons: list[str | None] = [None] * len(answers)
    scores = np.full(len(answers), np.nan)
    for group_rows in members.values():
        said = Counter(answers[row] for row in group_rows)
        (first, most), *others = said.most_common()
        clear = not others or others[0][1] < most
        for row in group_rows:
            scores[row] = said[answers[row]] / len(group_rows)
            if others and not (params.refuse == "minority" and clear and answers[row] == first):
                reasons[row] = "contradiction"
    return Verdicts(reasons, scores)


def _groups(rows: Rows, params: Params) -> np.ndarray:
    """int64 [R]: the row that stands for each row's group of same inputs."""
    if params.threshold >= 1.0:
        first: dict[bytes, int] = {}
        return np.array(
            [first.setdefault(key, row) for row, key in enumerate(words.input_keys(rows.samples))], np.int64
        )
    index = Index(Shape(params.threshold, params.ngram, seed=rows.seed))
    index.add(rows.samples["prompt"].to_pylist(), words.picture_keys(rows.samples))
    twin, _ = index.repeats()
    return np.where(twin < 0, np.arange(len(twin)), twin)

"""Which layer of the student learns from which of the teacher's.

Shape legend: S student layers, T teacher layers, R rows, X and Y widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cluster.errors import RecipeError
from cluster.recipe.stage_parts import Layers

Similar = Callable[[Sequence[int], Sequence[int]], np.ndarray]


def pairs(section: Layers, student: int, teacher: Sequence[int], similar: Similar, at: str) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), ascending in the student's; layer 1 is the first.

    `student` is how many layers the student has, `teacher` the layers whose states are there, ascending; `similar`
    gives the similarity [S, T] of layers of both and is asked by map cka alone. Raises RecipeError below `at`.
    """
    if section.map == "explicit":
        chosen = [(own, theirs) for own, theirs in section.pairs]
        _known([own for own, _ in chosen], range(1, student + 1), f"{at}.pairs: student layers")
        _known([theirs for _, theirs in chosen], teacher, f"{at}.pairs: teacher layers")
        return sorted(chosen)
    own = sorted(section.student) or list(range(1, student + 1))
    _known(own, range(1, student + 1), f"{at}.student")
    theirs = list(teacher)
    if section.between is not None:
        first, last = section.between
        theirs = [number for number in teacher if first <= number <= last]
        _known([first, last], teacher, f"{at}.between")
    if section.map == "cka":
        return list(zip(own, (theirs[column] for column in in_order(similar(own, theirs))), strict=True))
    if section.map == "last_k":
        if len(own) > len(theirs):
            raise RecipeError(f"{at}: map last_k", got=f"{len(own)} student, {len(theirs)} teacher layers",
                              expected="no more student layers than teacher layers, or layers.student")  # fmt: skip
        return list(zip(own, theirs[-len(own) :], strict=True))
    spread = [theirs[-(-(place * len(theirs)) // len(own)) - 1] for place in range(1, len(own) + 1)]
    return list(zip(own, spread, strict=True))


def in_order(similarity_ST: np.ndarray) -> list[int]:
    """For each student layer the column of its teacher layer: the largest sum of similarities in which no later student
    layer has an earlier teacher layer (all of them differ where there are enough)."""
    students, teachers = similarity_ST.shape
    strict = int(students <= teachers)
    best = np.full((students, teachers), -np.inf)
    came = np.zeros((students, teachers), int)
    best[0] = similarity_ST[0]
    for row in range(1, students):
        for column in range(strict, teachers):
            before = best[row - 1, : column + 1 - strict]
            came[row, column] = int(before.argmax())
            best[row, column] = before.max() + similarity_ST[row, column]
    columns = [int(best[-1].argmax())]
    for row in range(students - 1, 0, -1):
        columns.append(int(came[row, columns[-1]]))
    return columns[::-1]


def linear_cka(x_RX: np.ndarray, y_RY: np.ndarray) -> float:
    """||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of centred features, 0 to 1 (arXiv 1905.00414, section 3).

    Other widths, rotations and scales change nothing; features without variance are like nothing: 0.
    """
    x, y = (own.astype(np.float64) - own.astype(np.float64).mean(0) for own in (x_RX, y_RY))
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else 0.0


def _known(asked: Sequence[int], there: Sequence[int], at: str) -> None:
    if missing := sorted(set(asked) - set(there)):
        raise RecipeError(f"{at}: no such layer", got=missing, expected=", ".join(map(str, there)) or "none")

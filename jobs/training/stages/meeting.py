"""Where student and teacher meet inside: which layers a stage compares, what it looks at there, and its adapters.

Shape legend: Q scored positions, L cached layers, H teacher width, R rows, S student layers, T teacher layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import RecipeError
from cluster.recipe import Stage
from jobs import tasks
from jobs.training import adapters, table
from jobs.training.distiller import View, look
from jobs.training.losses import LOSSES
from jobs.training.rows import Held
from jobs.training.stages import layer_map
from serving.models.layers import projections_of

INSIDE = ("student_projections", "student_maps_BCHW")
AT_ONCE = 64  # rows of one forward pass when layers are compared


@dataclass(frozen=True)
class Meeting:
    """What a stage looks at in the student (`own`) and in a live teacher (`theirs`), and the pairs of layer numbers.

    `cached`: per pair the place of its teacher layer in a packed row; () where the teacher is live.
    """

    own: View
    theirs: View
    pairs: tuple[tuple[int, int], ...] = ()
    cached: tuple[int, ...] = ()

    def states(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Per pair the teacher's cached state [Q, H]."""
        return [batch["teacher_hidden"][:, place] for place in self.cached]


@dataclass(frozen=True)
class Sides:
    """Both networks of a stage before it starts, and the rows that they can be compared on.

    `kept` are the teacher's layers that rows hold (`generate.kept_layers`), unused with a live `teacher`.
    """

    task: tasks.Task
    network: nn.Module
    teacher: nn.Module | None
    held: Held
    kept: Sequence[int]


def arrange(stage: Stage, sides: Sides, pairs: Sequence[Sequence[int]]) -> Meeting:
    """The meeting of a stage. `pairs` are those that a resumed stage began with; []: the stage's map is worked out.

    Raises RecipeError where a map asks for layers that are not there, or a loss for attention that no layer has.
    """
    needs = {name for term in stage.losses for name in LOSSES[term.name].needs}
    masked, slopes = "masked_logits_MV" in needs, "student_slopes" in needs
    if stage.layers is None:
        return Meeting(View(masked=masked, slopes=slopes), View(slopes=slopes))
    task, section = sides.task, stage.layers
    assert isinstance(task, tasks.Layered)
    student = len(task.blocks(sides.network))
    there = list(sides.kept) if sides.teacher is None else list(range(1, len(task.blocks(sides.teacher)) + 1))
    similar = _Similar(sides, section.rows)
    chosen = pairs or layer_map.pairs(section, student, there, similar, f"stage {stage.name}: layers")
    own, theirs = (tuple(int(pair[side]) for pair in chosen) for side in (0, 1))
    attention = _attention(task.blocks(sides.network)[0], needs)
    return Meeting(
        View(own, attention, tuple(section.student_heads), masked, slopes),
        View(theirs, attention, tuple(section.teacher_heads), slopes=slopes),
        tuple(zip(own, theirs, strict=True)),
        () if sides.teacher is not None else tuple(there.index(number) for number in theirs),
    )


def adapters_of(stage: Stage, sides: Sides, meeting: Meeting, width: int) -> list[nn.Module]:
    """Fresh adapters: one per pair, or one from the last state to the cached one's `width`; [] where the stage has
    none."""
    if not stage.adapters:
        return []
    if not meeting.pairs:
        return [nn.Linear(sides.task.hidden_size(sides.network), width)]
    batch = sides.task.batch(*sides.held.some(np.arange(min(2, table.rows(sides.held.index)))))
    own, theirs = features(sides, meeting.own, batch), _teacher(sides, meeting, batch)
    return [adapters.build(a.shape[1:], b.shape[1:]) for a, b in zip(own, theirs, strict=True)]


@torch.no_grad()
def features(sides: Sides, view: View, batch: Mapping[str, Tensor], teacher: bool = False) -> list[Tensor]:
    """States of the view's layers of one side, without dropout."""
    network = sides.teacher if teacher else sides.network
    assert network is not None
    was_training = network.training
    network.eval()
    shown: list[dict[str, Any]] = look(sides.task, network, batch, View(view.numbers))["layers"]
    network.train(was_training)
    return [one["features"] for one in shown]


def _teacher(sides: Sides, meeting: Meeting, batch: Mapping[str, Tensor]) -> list[Tensor]:
    return meeting.states(batch) if sides.teacher is None else features(sides, meeting.theirs, batch, teacher=True)


def _attention(block: nn.Module, needs: set[str]) -> bool:
    if not needs & set(INSIDE):
        return False
    try:
        projections_of(block)
    except ValueError as error:
        if "student_projections" in needs:
            raise RecipeError("relation_transfer: no attention in the student", got=str(error)) from None
        return False  # attention transfer of feature maps
    return True


class _Similar:
    """Linear CKA between layers on packed rows, evenly spread over the table.

    Of the training rows: the teacher's states are cached for them alone, and which layers meet is no result.
    """

    def __init__(self, sides: Sides, rows: int) -> None:
        self.sides = sides
        count = table.rows(sides.held.index)
        self.rows = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(int))

    def __call__(self, student: Sequence[int], teacher: Sequence[int]) -> np.ndarray:
        """Similarity [S, T]."""
        kept, live = list(self.sides.kept), self.sides.teacher is not None
        cached = () if live else tuple(kept.index(number) for number in teacher)
        meeting = Meeting(View(tuple(student)), View(tuple(teacher)), cached=cached)
        parts: list[tuple[list[Tensor], list[Tensor]]] = []
        for start in range(0, len(self.rows), AT_ONCE):
            batch = self.sides.task.batch(*self.sides.held.some(self.rows[start : start + AT_ONCE]))
            parts.append((features(self.sides, meeting.own, batch), _teacher(self.sides, meeting, batch)))
        own, theirs = (_joined([part[side] for part in parts]) for side in (0, 1))
        return np.array([[layer_map.linear_cka(a, b) for b in theirs] for a in own])


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[np.ndarray]:
    """Per layer the features [R, width] of all batches."""
    return [torch.cat(layer).flatten(1).numpy() for layer in zip(*parts, strict=True)]

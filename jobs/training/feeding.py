"""What the losses of a step read: the trained module's outputs beside the teacher's, from the batch or from itself.

Shape legend: Q scored positions, V vocabulary or classes, H teacher width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cluster.recipe import Stage
from jobs import tasks
from jobs.tasks import packed_labels
from jobs.training.distiller import look
from jobs.training.losses import LOSSES, Signals
from jobs.training.stages.meeting import Meeting

Start = Mapping[str, Tensor]


def start_weights(task: tasks.Task, initial: str, stages: Sequence[Stage]) -> Start | None:
    """Weights before the first stage, heads merged as in the last of `stages`, where that reads them.

    Read again from the folder `initial`, so that a resumed run has the same.
    """
    if not any("start_weights" in LOSSES[term.name].needs for term in stages[-1].losses):
        return None
    network = task.load(initial)
    for heads in (stage.kv_heads for stage in stages if stage.kv_heads is not None):
        network = task.merge_kv(network, heads)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


class Feed:
    """The signals of one stage. `teacher` is a network that runs beside the student, None where rows hold its signals;
    `start`: weights from before the run; `counts_V`: rows per class."""

    def __init__(
        self, task: tasks.Task, network: nn.Module, meeting: Meeting, teacher: nn.Module | None = None
    ) -> None:
        self.task, self.network, self.meeting, self.teacher = task, network, meeting, teacher
        self.start: Start | None = None
        self.counts_V: Tensor | None = None

    def signals(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Signals:
        """The signals of a batch from what `Distiller.forward` gave for it."""
        logits_QV = outputs["logits"]
        teacher = self._teacher(batch)
        lifted = outputs["adapted"] or [None] * max(1, len(self.meeting.pairs))
        masked = outputs["masked"] or (None, None)
        return Signals(
            logits_QV,
            batch["targets"],
            teacher["logits"],
            lifted[0],
            teacher["hidden"],
            teacher_sparse=packed_labels.sparse_of(batch),
            teacher_entropy_Q=batch.get("teacher_entropy"),
            student_features_QW=outputs["hidden"],
            start_weights=self._start(),
            target_counts_V=None if self.counts_V is None else self.counts_V.to(logits_QV.device),
            masked_logits_MV=masked[0],
            masked_targets_M=masked[1],
            mask_BS=self._real(batch),
            student_slopes=outputs.get("slopes"),
            teacher_slopes=teacher.get("slopes"),
            pairs=self._pairs(outputs, lifted, teacher["layers"] or self._cached(batch)),
        )

    def _teacher(self, batch: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """`logits`, `hidden` (the last one kept) and, of a live teacher, `layers`."""
        if self.teacher is not None:
            with torch.no_grad():
                return look(self.task, self.teacher.to(batch["targets"].device), batch, self.meeting.theirs)
        hidden = batch.get("teacher_hidden")
        if hidden is not None and hidden.dim() == 3:  # [Q, L, H], several layers
            hidden = hidden[:, -1]
        return {"logits": batch.get("teacher_logits"), "hidden": hidden, "layers": []}

    def _real(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        if not self.meeting.own.attention:
            return None
        assert isinstance(self.task, tasks.Attentive)
        return self.task.real(batch)

    def _cached(self, batch: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        states = self.meeting.states(batch)
        return [{"features": x, "maps": x if x.dim() == 4 else None, "projections": None} for x in states]

    def _pairs(
        self, outputs: Mapping[str, Any], lifted: Sequence[Tensor | None], theirs: Sequence[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], ...]:
        if not self.meeting.pairs:
            return ()
        return tuple(
            {
                "student_features_QW": own["features"],
                "student_hidden_QH": up,
                "teacher_hidden_QH": other["features"],
                "student_maps_BCHW": own["maps"],
                "teacher_maps_BDHW": other["maps"],
                "student_projections": own["projections"],
                "teacher_projections": other["projections"],
            }
            for own, up, other in zip(outputs["layers"], lifted, theirs, strict=True)
        )

    def _start(self) -> tuple[tuple[Tensor, Tensor], ...] | None:
        start, named = self.start, self.network.named_parameters()
        pairs = start and tuple((value, start[name].to(value.device)) for name, value in named if value.requires_grad)
        return pairs or None

"""Several teachers as one: the mean of their probabilities, the surest answer, or one teacher per slice.

Soft labels of one table have one set of columns, so all members must mean the same labels (or tokens) by theirs; the
first member's order is kept and the others are turned into it.
Shape legend: A answer tokens (1 for classes), V vocabulary or classes, H hidden size, M members.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.base import Section
from cluster.recipe.models import EnsembleSection, ModelSection, TeacherSection
from serving import teachers
from serving.bundle.answer import Answer, BundleError, named, softmax
from serving.teachers.budget import Sharing
from serving.teachers.replies import Array, DenseReply, Failure, Reply, Usage

SMALLEST = 1e-30  # a probability of zero has no logarithm; float16 holds nothing near this anyway
SHOWN = 5


class EnsembleParams(Section):
    """An ensemble has no `params`: its members are in `ensemble`."""


@dataclass(frozen=True)
class Routed:
    """A request and the member (its index) that answers it."""

    member: int
    prompt: Any


class FusedTeacher:
    """Asks its members and makes one reply of theirs. A row that a member fails on is a failure that names it, unless
    the surest of the others is wanted: half an ensemble would be another teacher."""

    def __init__(self, section: EnsembleSection, members: Sequence[teachers.Teacher]) -> None:
        """`members` in the section's order. Raises MismatchError when their labels differ, or cannot be averaged."""
        self.section, self.members = section, list(members)
        self.names = [member.name for member in section.members]
        vocabularies = [None if one.vocabulary is None else list(one.vocabulary) for one in self.members]
        self.orders = _orders(self.names, vocabularies)
        self.vocabulary: Sequence[str] | None = vocabularies[0]
        if section.by == "weight" and self.vocabulary is None:
            hint = "by: confidence or by: slice"
            raise MismatchError("members that show no probabilities cannot be averaged", got=self.names, hint=hint)
        self.routes = {name: at for at, member in enumerate(section.members) for name in member.slices}
        self.rest = next((at for at, member in enumerate(section.members) if not member.slices), None)

    def prompt(self, item: Mapping[str, Any]) -> Any:
        """Every member's prompt, or by slice that of the one member that answers it.

        Raises BundleError as the members do, and for a slice that no member answers.
        """
        if self.section.by != "slice":
            return tuple(member.prompt(item) for member in self.members)
        name = item.get("slice")
        at = self.routes.get(str(name), self.rest)
        if name is None or at is None:
            known = ", ".join(sorted(self.routes))
            raise BundleError(f"slice: got {name!r:.80}, expected {'a slice' if self.rest is not None else known}")
        return Routed(at, self.members[at].prompt(item))

    def complete(
        self, prompts: Sequence[Any], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[Reply | Failure]:
        """One reply or failure per prompt, in order; every member gets the row's own seed."""
        if self.section.by == "slice":
            return self._by_slice(prompts, temperature, seeds)
        asked = [
            member.complete([prompt[at] for prompt in prompts], temperature, seeds)
            for at, member in enumerate(self.members)
        ]
        fuse = self._mean if self.section.by == "weight" else self._surest
        return [fuse([self._turned(at, one) for at, one in enumerate(row)]) for row in zip(*asked, strict=True)]

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """See `Teacher.answer`; a mean of classes comes with the probability of every label."""
        if self.section.by != "weight":
            return teachers.answers(self, items)
        replies = self.complete([self.prompt(item) for item in items])
        return [named(softmax(_dense(reply).logits[0]), self.vocabulary or ()) for reply in replies]

    def _by_slice(
        self, prompts: Sequence[Routed], temperature: float, seeds: Sequence[int] | None
    ) -> list[Reply | Failure]:
        found: dict[int, Reply | Failure] = {}
        for at, member in enumerate(self.members):
            rows = [row for row, prompt in enumerate(prompts) if prompt.member == at]
            own = None if seeds is None else [seeds[row] for row in rows]
            replies = member.complete([prompts[row].prompt for row in rows], temperature, own) if rows else []
            found |= {row: self._turned(at, reply) for row, reply in zip(rows, replies, strict=True)}
        return [found[row] for row in range(len(prompts))]

    def _turned(self, at: int, reply: Reply | Failure) -> Reply | Failure:
        """The reply with its columns in the first member's order; a failure says whose it is."""
        if isinstance(reply, Failure):
            return replace(reply, detail=f"{self.names[at]}: {reply.detail}")
        order = self.orders[at]
        if order is None or reply.logits is None or reply.tokens is None:
            return reply
        place = np.argsort(order)  # where the member's column stands now
        return replace(reply, logits=reply.logits[:, order], tokens=place[reply.tokens])

    def _mean(self, replies: Sequence[Reply | Failure]) -> Reply | Failure:
        """p = sum_m w_m softmax(z_m) / sum_m w_m over the labels, float32 [V]; its logarithm are the logits at T=1.

        The hidden state is the first member's.
        """
        usage, attempts = _totals(replies)
        for reply in replies:
            if isinstance(reply, Failure):
                return replace(reply, usage=usage, attempts=attempts)
        dense = [_dense(reply) for reply in replies]
        if any(len(reply.logits) != 1 for reply in dense):
            raise MismatchError("only classes can be averaged", got="answers of several tokens", expected="classifiers")
        weight_M = np.array([member.weight for member in self.section.members])
        p_MV = np.stack([softmax(reply.logits[0].astype(np.float64)) for reply in dense]).astype(np.float64)
        p_V = (weight_M[:, None] * p_MV).sum(0) / weight_M.sum()
        best, labels = int(p_V.argmax()), self.vocabulary or ()
        logits_1V = np.log(np.maximum(p_V, SMALLEST)).astype(np.float32)[None]
        fused = DenseReply(labels[best], float(p_V[best]), np.array([best]), logits_1V, dense[0].hidden)
        return replace(fused, usage=usage, attempts=attempts)

    def _surest(self, replies: Sequence[Reply | Failure]) -> Reply | Failure:
        """The reply of the highest confidence (none told: below all); of equals the first; a failure where all are."""
        usage, attempts = _totals(replies)
        answered = [reply for reply in replies if isinstance(reply, Reply)]
        if not answered:
            return replace(replies[0], usage=usage, attempts=attempts)
        best = max(answered, key=lambda reply: -1.0 if reply.confidence is None else reply.confidence)
        return replace(best, usage=usage, attempts=attempts)


def check_section(section: ModelSection, at: str) -> None:
    """See `teachers.check`: every member by itself, and the labels of members whose folders name them."""
    ensemble, labels = _ensemble(section, at), []
    for index, member in enumerate(ensemble.members):
        here = f"{at}.ensemble.members.{index}"
        teachers.check(member, here)
        task = _task(member, here)
        if ensemble.by == "weight" and task.get("task") != "text_classification":
            expected = "classifiers: folders with labels in task.json"
            raise MismatchError(f"{here}: by: weight averages classes", got=member.architecture, expected=expected)
        labels.append(task["labels"] if task.get("task") == "text_classification" else None)
    if any(one is not None for one in labels):
        _orders([member.name for member in ensemble.members], labels)


def open_section(section: ModelSection, sharing: Sharing, at: str) -> FusedTeacher:
    """See `teachers.open_teacher`."""
    ensemble = _ensemble(section, at)
    members = [
        teachers.open_teacher(member, sharing=sharing.of_member(index), at=f"{at}.ensemble.members.{index}")
        for index, member in enumerate(ensemble.members)
    ]
    return FusedTeacher(ensemble, members)


def _ensemble(section: ModelSection, at: str) -> EnsembleSection:
    if not isinstance(section, TeacherSection) or section.ensemble is None:
        raise RecipeError(f"{at}.ensemble is needed", got="nothing", expected="by and members")
    return section.ensemble


def _task(member: ModelSection, at: str) -> dict[str, Any]:
    """The `task.json` of a member that is a fitted folder; {} for other kinds."""
    if member.architecture not in teachers.FITTED:
        return {}
    path = Path(str(member.weights)) / teachers.TASK_FILE
    if not path.is_file():
        expected = "a folder written by fit or distill"
        raise RecipeError(f"{at}.weights: no fitted teacher there", got=member.weights, expected=expected)
    spec: dict[str, Any] = json.loads(path.read_text())
    return spec


def _orders(names: Sequence[str], vocabularies: Sequence[Sequence[str] | None]) -> list[Array | None]:
    """Per member the column of its own that stands for each column of the first's, int64 [V]; None: as they are.

    Raises MismatchError naming both members where they do not mean the same.
    """
    first, orders = vocabularies[0], list[Array | None]()
    for name, own in zip(names, vocabularies, strict=True):
        if own == first:
            orders.append(None)
            continue
        what = f"teachers {names[0]} and {name} do not answer in the same labels"
        if first is None or own is None:
            silent = names[0] if first is None else name
            raise MismatchError(what, got=f"{silent} shows no logits", expected="all of them do, or none")
        place = {label: column for column, label in enumerate(own)}
        if set(place) != set(first) or len(place) != len(own) or len(own) != len(first):
            got = f"only in {name}: {_few(set(own) - set(first))}; only in {names[0]}: {_few(set(first) - set(own))}"
            raise MismatchError(what, got=f"{len(own)} labels, {got}", expected=f"the {len(first)} of {names[0]}")
        orders.append(np.array([place[label] for label in first]))
    return orders


def _few(labels: set[str]) -> str:
    shown = ", ".join(sorted(labels)[:SHOWN]) or "none"
    return shown + (", ..." if len(labels) > SHOWN else "")


def _dense(reply: Reply | Failure) -> DenseReply:
    if isinstance(reply, Failure):
        raise teachers.TeacherFailed(reply)
    assert isinstance(reply, DenseReply), "members with a vocabulary reply with logits"
    return reply


def _totals(replies: Sequence[Reply | Failure]) -> tuple[Usage | None, int]:
    """What all members together took, and the most often that one was asked."""
    told = [reply.usage for reply in replies if reply.usage is not None]
    return (sum(told, Usage(0, 0)) if told else None), max(reply.attempts for reply in replies)

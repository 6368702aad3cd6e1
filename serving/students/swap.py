"""Changes the model of a process that serves: load beside it, try it out, then turn to it; the one before stays.

A bundle is refused, and the old one goes on serving, when a checksum differs, when it does another task or knows other
labels than what is served now, or when it does not answer sensibly.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.bundle import files, golden
from serving.bundle.answer import Answer, BundleError
from serving.students.batcher import Limits
from serving.students.student import Student, warm_up

KEPT = 2  # students in memory: the one that serves and the one before (count)
PARTING_S = 30.0  # a student that nobody needs any more ends its thread after it: requests may still be with it


class Shelf:
    """The students of this process by their folder, the last used last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._students: dict[str, Student] = {}

    def known(self, folder: str) -> Student | None:
        """The student of this folder when it is in memory; it counts as used."""
        student = self._students.pop(folder, None)
        if student is not None:
            self._students[folder] = student
        return student

    async def load(self, folder: str, now: Mapping[str, Any] | None) -> Student:
        """The student of this folder; when it is not in memory it is loaded and tried in a thread of its own.

        `now` is the description of what is served (None: nothing yet). Raises BundleError when it is not fit to serve.
        """
        student = self.known(folder)
        if student is None:
            student = await asyncio.to_thread(opened, folder, self._limits, now)
            self._students[folder] = student
            for old in list(self._students)[:-KEPT]:
                asyncio.get_running_loop().call_later(PARTING_S, self._students.pop(old).close)
        elif now is not None:
            fits(student.spec, now)
        return student

    def close(self) -> None:
        """End every student's thread."""
        for student in self._students.values():
            student.close()


def opened(folder: str | Path, limits: Limits, now: Mapping[str, Any] | None) -> Student:
    """A student that has passed its smoke test; raises BundleError as `Shelf.load`."""
    student = Student(Path(folder), limits)
    if now is not None:
        fits(student.spec, now)
    smoke(student)
    golden_answers(student, Path(folder))
    return student


def golden_answers(student: Student, folder: Path) -> None:
    """Ask the golden samples that the bundle was exported with, if any; raise BundleError unless they are answered as
    they were then."""
    if golden.FILE not in student.spec["files"]:
        return
    samples = golden.read(files.verified(folder))
    found = golden.compare(samples, [student.model.predict([item])[0] for item, _, _ in samples])
    if not found["passed"]:
        raise BundleError(f"golden samples: {found['differs'][0]}, of {found['samples']} samples"[:500])


def fits(spec: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise BundleError when callers of what is served now would be surprised: another task, or other labels."""
    if spec["task"] != now["task"]:
        raise BundleError(f"task: got {spec['task']}, expected {now['task']}, which is served")
    got, expected = set(spec.get("labels") or []), set(now.get("labels") or [])
    if got != expected:
        more, fewer = sorted(got - expected)[:3], sorted(expected - got)[:3]
        raise BundleError(
            f"labels: got {len(got)} (new: {more}, missing: {fewer}), expected the {len(expected)} served"
        )


def smoke(student: Student) -> None:
    """Ask what any student of its kind can be asked; raise BundleError unless the answer is one."""
    request = warm_up(student.spec)
    sensible(student.model.predict([request])[0], student.spec)
    if any(not bool((logits == logits).all()) for logits in student.model.logits([request])):
        raise BundleError("smoke test: the model's logits are no numbers")


def sensible(answer: Answer, spec: Mapping[str, Any]) -> None:
    """Raise BundleError for a confidence that is no probability, or a label that is none of the bundle's."""
    if not (math.isfinite(answer.confidence) and 0 <= answer.confidence <= 1 + 1e-6):
        raise BundleError(f"smoke test: got the confidence {answer.confidence}, expected a probability")
    if answer.probabilities is not None and answer.text not in (spec.get("labels") or []):
        raise BundleError(f"smoke test: got the label {answer.text!r:.80}, expected one of the bundle's")

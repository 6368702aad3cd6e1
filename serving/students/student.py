"""The student inside the gateway's process: one bundle, one compute thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.bundle import image_classes, predict
from serving.bundle.answer import Answer, BundleError
from serving.bundle.writing import Writer
from serving.students.batcher import Batcher, Limits
from serving.students.stepper import Pieces, Stepper, Writing, Written

# How long Python lets one thread go on while another waits (s). With its own 5 ms the event loop and the compute thread
# hold each other up: 32 clients get a fifth fewer answers.
TURN_S = 0.001
WARM_UP: Mapping[str, Any] = {"text": "warm up", "images": []}
ALONE = Limits(batch_max=16, queue_max=128, queue_ms=60_000.0)
TEXT_TASKS = ("text_classification", "retrieval")  # whose rows are of equal length when their tokens are

Row = tuple[Mapping[str, Any], float]  # a request, and a fault to inject (ms)


@dataclass(frozen=True)
class Reads:
    """What of a request the student can read: pictures and frames (count), a sound, and words at all."""

    images_max: int
    frames_max: int
    hears: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Reads:
        """From a `bundle.json`."""
        images = int(spec["max_images"]) if "max_images" in spec else int(spec["task"] == "image_classification")
        return cls(images, int(spec["clip"]["frames"]) if "clip" in spec else 0, "sound" in spec)


def warm_up(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request that a student of this `bundle.json` can read: words, and a black picture where it reads no words."""
    if spec["task"] != "image_classification":
        return WARM_UP
    return {**WARM_UP, "images": [image_classes.blank(image_classes.Frame(**spec["picture"]))]}


class Student:
    """A bundle that answers requests, unpadded: the same bits as the bundle's own `predict.py`.

    Rows go together only where the bundle says that this changes nothing; texts are written token by token, in turns.
    """

    def __init__(self, folder: Path, limits: Limits = ALONE) -> None:
        """Raises BundleError when a file of the bundle is missing or changed, or when the bundle cannot answer."""
        sys.setswitchinterval(TURN_S)
        self.model = predict.load(folder)
        self.spec, self.reads = self.model.spec, Reads.of(self.model.spec)
        self.model.predict([warm_up(self.spec)])
        self._together = together = bool(self.spec["batch_invariant"])
        limits = limits if together else Limits(1, limits.queue_max, limits.queue_ms)
        self._rows = Batcher[Row, Answer](self._answers, limits)
        self._texts = Stepper(self.model, limits, together) if isinstance(self.model, Writer) else None

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn (count)."""
        return self._rows.waiting + (self._texts.waiting if self._texts is not None else 0)

    async def answer(self, item: Mapping[str, Any], within_ms: float, delay_ms: float = 0.0) -> Answer:
        """The answer to `{"text": str, "images": [bytes]}`; raises BundleError for a request it cannot read, Refusal
        when too many wait, TimeoutError when its turn does not come in time.

        A cancelled call that has not begun never runs; one that computes runs to its end and is dropped. `delay_ms`
        is a fault to inject: the thread sleeps that long first, as a slow model would keep it busy.
        """
        if self._texts is None:
            return await self._rows.submit((item, delay_ms), self._length(item), within_ms)
        written = await self.written(item, Writing(), within_ms, delay_ms)
        return written.answer

    async def written(
        self, item: Mapping[str, Any], writing: Writing, within_ms: float, delay_ms: float = 0.0
    ) -> Written:
        """A whole text; raises as `answer`, and BundleError where the student writes no texts."""
        async with asyncio.timeout(within_ms / 1000), aclosing(self.write(item, writing, delay_ms)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Written):
                    return piece
        raise AssertionError("a text ends with what was written")

    def write(self, item: Mapping[str, Any], writing: Writing, delay_ms: float = 0.0) -> Pieces:
        """Pieces of a text as they come (`Stepper.write`). Raises BundleError where the student writes no texts."""
        if self._texts is None:
            raise BundleError(f"this model does {self.spec['task']}, and writes no texts")
        return self._texts.write(item, writing, delay_ms)

    def close(self) -> None:
        """End its thread; who still waits gets an error."""
        self._rows.close()
        if self._texts is not None:
            self._texts.close()

    def _length(self, item: Mapping[str, Any]) -> int:
        """What rows must share to be computed at once: their length in tokens, or nothing."""
        if not self._together or self.spec["task"] not in TEXT_TASKS:
            return 0
        return len(self.model.tokenizer.encode(str(item.get("text", ""))).ids)  # type: ignore[attr-defined]

    def _answers(self, rows: Sequence[Row]) -> list[Answer | Exception]:
        time.sleep(sum(delay_ms for _, delay_ms in rows) / 1000)
        try:
            return [*self.model.predict([item for item, _ in rows])]
        except BundleError as error:
            # One that cannot be read is no reason to refuse the others.
            return [error] if len(rows) == 1 else [answer for row in rows for answer in self._answers([(row[0], 0.0)])]

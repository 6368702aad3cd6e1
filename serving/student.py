"""The student inside the gateway's process: one bundle, one compute thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.bundle import image_classes, predict

WARM_UP: Mapping[str, Any] = {"text": "warm up", "images": []}


def warm_up(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request that a student of this `bundle.json` can read: words, and a black picture where it reads no words."""
    if spec["task"] != "image_classification":
        return WARM_UP
    return {**WARM_UP, "images": [image_classes.blank(image_classes.Frame(**spec["picture"]))]}


class Student:
    """A bundle that answers one request after the other, unpadded: the same bits as the bundle's own `predict.py`."""

    def __init__(self, folder: Path) -> None:
        """Raises BundleError when a file of the bundle is missing or changed, or when the bundle cannot answer."""
        self.model = predict.load(folder)
        self.model.predict([warm_up(self.model.spec)])
        self._thread = ThreadPoolExecutor(1, "student")

    async def answer(self, item: Mapping[str, Any], delay_ms: float = 0.0) -> predict.Answer:
        """The answer to `{"text": str, "images": [bytes]}`; raises BundleError for a request it cannot read.

        A cancelled call that has not begun never runs; one that computes runs to its end and is dropped. `delay_ms`
        is a fault to inject: the thread sleeps that long first, as a slow model would keep it busy.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, item, delay_ms)

    @property
    def images_max(self) -> int:
        """Pictures of one request that the student can read (count)."""
        return int(self.model.spec["max_images"]) if "max_images" in self.model.spec else 0

    @property
    def frames_max(self) -> int:
        """Frames of one request's video that the student can read (count)."""
        return int(self.model.spec["clip"]["frames"]) if "clip" in self.model.spec else 0

    @property
    def hears(self) -> bool:
        """Whether it can read a sound."""
        return "sound" in self.model.spec

    def _answer(self, item: Mapping[str, Any], delay_ms: float) -> predict.Answer:
        if delay_ms:
            time.sleep(delay_ms / 1000)
        return self.model.predict([item])[0]

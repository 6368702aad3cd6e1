"""The student inside the gateway's process: one bundle, one compute thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.bundle import pictures, predict

WARM_UP: Mapping[str, Any] = {"text": "warm up", "images": []}


class Student:
    """A bundle that answers one request after the other, unpadded: the same bits as the bundle's own `predict.py`."""

    def __init__(self, folder: Path) -> None:
        """Raises BundleError when a file of the bundle is missing or changed, or when the bundle cannot answer."""
        self.model = predict.load(folder)
        self.model.predict([WARM_UP])
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
        return int(self.model.spec["max_images"]) if isinstance(self.model, pictures.VisualAnswerer) else 0

    def _answer(self, item: Mapping[str, Any], delay_ms: float) -> predict.Answer:
        if delay_ms:
            time.sleep(delay_ms / 1000)
        return self.model.predict([item])[0]

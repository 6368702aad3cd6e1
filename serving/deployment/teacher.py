"""The teacher as a Ray Serve application of its own, asked over a handle when the student cannot answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving import teachers
from serving.bundle.answer import Answer
from serving.deployment.loopback import keep_replica_home
from serving.seams.memory import Report


class Teacher:
    """A teacher's folder (a network, or which endpoint to ask) that answers one request after the other in a thread."""

    def __init__(self, folder: Path, model: str) -> None:
        """Raises DataError when the folder is none that `jobs fit` writes; `model` is the registered student's name,
        for metrics."""
        keep_replica_home()
        self.model = teachers.open_folder(folder)
        Report("teacher", model).loaded()
        self._thread = ThreadPoolExecutor(1, "teacher")

    async def answer(self, item: Mapping[str, Any]) -> Answer:
        """The answer to `{"text": str, "images": [bytes]}`; a call cancelled before its turn never runs."""
        answers = await asyncio.get_running_loop().run_in_executor(self._thread, self.model.answer, [item])
        return answers[0]

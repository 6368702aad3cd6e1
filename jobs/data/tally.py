"""How far generation is: every teacher leaves what it did, and one line with rate, time left and cost is made of it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.store.filesystem import write_aside

EVERY_S = 1.0
PROGRESS = "generate.progress"  # ends as `jobs.progress` looks for it in a step's scratch folder


class Tally:
    """Counts of one teacher in a file of its own, replaced whole: rows, rejected rows, tokens, cost."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / f"{uuid.uuid4().hex}.json"
        self._counts: dict[str, float] = {"rows": 0, "rejected": 0, "tokens": 0, "cost": 0.0}

    def add(self, **counts: float) -> None:
        """Add to `rows`, `rejected`, `tokens` (read and written) or `cost` (currency of the recipe's prices)."""
        for name, value in counts.items():
            self._counts[name] += value
        if "rows" in counts:  # once a batch
            write_aside(self._path, json.dumps(self._counts).encode())


class Meter:
    """A context that turns the tallies of a folder into one line in `path` once a second, for `requested` rows."""

    def __init__(self, tallies: Path, path: Path, requested: int) -> None:
        self._tallies, self._path, self._requested = tallies, path, requested
        self._before, self._since = total(tallies), time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="generate progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._show()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._show()

    def _show(self) -> None:
        seen = line(total(self._tallies), self._before, time.monotonic() - self._since, self._requested)
        write_aside(self._path, json.dumps(seen).encode())


def total(*folders: Path) -> dict[str, float]:
    """Sum of the tallies in folders. A worker that died leaves its own: rows it had not handed on count twice."""
    counts: dict[str, float] = {"rows": 0, "rejected": 0, "tokens": 0, "cost": 0.0}
    for path in sorted(path for folder in folders for path in folder.glob("*.json")):
        for name, value in json.loads(path.read_text()).items():
            counts[name] += value
    return counts


def line(now: dict[str, float], before: dict[str, float], seconds: float, requested: int) -> dict[str, Any]:
    """What `jobs.progress` shows: rows done of `requested`, and rate, time left, tokens and cost since `before`."""
    done = min(int(now["rows"]), requested)
    rate = (now["rows"] - before["rows"]) / max(seconds, 1e-9)
    parts = [f"{rate:.1f} rows/s", f"{(now['tokens'] - before['tokens']) / max(seconds, 1e-9):.0f} tokens/s"]
    if rate:
        parts.append(f"{(requested - done) / rate:.0f} s left")
    if now["cost"]:
        parts.append(f"cost {now['cost']:.4g}")
    if now["rejected"]:
        parts.append(f"{int(now['rejected'])} set aside")
    return {"stage": ", ".join(parts), "step": done, "steps": requested, "loss": None, "terms": {}}

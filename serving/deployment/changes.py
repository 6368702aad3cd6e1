"""What was changed while it was served: a line per change in the store, which the next `serving up` goes on from."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from serving.deployment.served import Served
from serving.deployment.standing import Standing
from serving.seams.observe import CHAMPION


def note(before: Standing, served: Served, why: str) -> None:
    """Write down that `served` is served now; of what is not registered nothing is written."""
    if before.catalog is None:
        return
    line = {
        "at_ms": time.time_ns() // 1_000_000, "why": why, "model": before.catalog.model,
        "shares": {arm.name: arm.weight for arm in served.arms if arm.name != CHAMPION},
        "versions": {arm.name: arm.version for arm in served.arms},
        "before": {arm.name: arm.version for arm in before.served.arms},
    }  # fmt: skip
    state = before.catalog.decisions
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def remembered(state: Path, model: str) -> dict[str, tuple[str, float]]:
    """Arm beside the champion -> its version and share, as the last change of this model left them; {} when nothing of
    it was changed."""
    with contextlib.suppress(FileNotFoundError):
        for text in reversed(state.read_text().splitlines()):
            line = json.loads(text)
            if line.get("model") == model:  # an older line may be of any model
                return {name: (line["versions"][name], share) for name, share in line["shares"].items()}
    return {}

"""The marker that stops a model's promotion and distillation while something is wrong with it (DESIGN, decision 11).

A record of the store, so that every process that opens the store sees it: `jobs watch` sets it, `promote` refuses, and
training looks at each checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cluster.errors import StepFailed
from cluster.store import Store

PREFIX = "paused/"


@dataclass(frozen=True)
class Pause:
    """Since when (ms since 1970, UTC), why, the verdict behind it, and the one run that may go on (null: none)."""

    model: str
    at: int
    reason: str
    verdict_id: str
    run: str | None = None


def pause(store: Store, marker: Pause) -> None:
    """Stop promotion and distillation of the model; a later marker replaces an earlier one."""
    store.write_record(PREFIX + marker.model, asdict(marker))


def resume(store: Store, model: str) -> None:
    """Let them go on; nothing when they were not stopped."""
    if find(store, model) is not None:
        store.write_record(PREFIX + model, {})


def find(store: Store, model: str) -> Pause | None:
    """The marker of a model, None when nothing is stopped."""
    record = store.read_record(PREFIX + model)
    return Pause(**record) if record else None


def refuse(store: Store, model: str, step: str, run: str) -> None:
    """Raise StepFailed when the model is paused and `run` is not the one that repairs it."""
    marker = find(store, model)
    if marker is not None and marker.run != run:
        hint = "python -m jobs watch RECIPE --once repairs it; python -m jobs resume RECIPE lets it go on as it is"
        raise StepFailed(step, f"{model} is paused: {marker.reason}", hint)

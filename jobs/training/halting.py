"""Whether a training has to wait: its model is paused because what is served went wrong (DESIGN, decision 11)."""

from __future__ import annotations

import torch

from cluster import pauses
from cluster.recipe import Recipe
from cluster.store import Store
from jobs.step import run_name
from jobs.training.health import Stopped


def refuse_paused(store: Store | None, recipe: Recipe, rank: int, world: int) -> None:
    """Raise Stopped("paused") on every rank when the first one sees the marker of the recipe's model; nothing without a
    store. Called right after a checkpoint, so that nothing is lost and the same command goes on from there."""
    if store is None:
        return
    marker = pauses.find(store, recipe.promote.model_name) if rank == 0 else None
    own = marker is not None and marker.run != run_name(recipe)
    # One rank that leaves alone would keep the others waiting for ever.
    if world > 1:
        flag = torch.tensor([float(own)])
        torch.distributed.broadcast(flag, src=0)
        own = bool(flag.item())
    if own:
        reason = "see jobs watch" if marker is None else marker.reason
        raise Stopped("paused", f"{recipe.promote.model_name} is paused: {reason}")

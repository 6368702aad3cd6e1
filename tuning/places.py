"""Where trials run: what one takes of a node, as the recipe's training would, and how many fit at once.

A trial is one worker of the recipe's training. So it takes a GPU where the nodes that training may use have one, and
`search.gpus` says which share of it: a student of a few million parameters leaves most of a GPU idle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import session
from cluster.recipe import Recipe

Node = Mapping[str, Any]  # of `ray.nodes()`: Alive, Labels, Resources
WHOLE = 1e-9  # 1 / 0.1 is a hair below 10 in some roundings: a share that fits is counted


@dataclass(frozen=True)
class Place:
    """What one trial takes: CPUs (threads of its training) and GPUs (0 to 1; 0: none, and none is seen)."""

    cpus: int
    gpus: float

    def bundle(self) -> dict[str, float]:
        """As Ray names resources."""
        return {"CPU": float(self.cpus)} | ({"GPU": self.gpus} if self.gpus else {})

    def on(self, node: Node) -> int:
        """How many trials a node takes at once; shares of a GPU are shares of one GPU, never of two."""
        has = node["Resources"]
        by_cpus = int(has["CPU"]) // self.cpus if "CPU" in has else 0
        if not self.gpus:
            return by_cpus
        by_gpus = int(has["GPU"]) * int(1 / self.gpus + WHOLE) if "GPU" in has else 0
        return min(by_cpus, by_gpus)


def of(recipe: Recipe, nodes: Sequence[Node]) -> Place:
    """What a trial of this recipe takes on these nodes: `search.gpus`, or where it says nothing a whole GPU if there is
    one, which is how `distill` decides for one worker."""
    gpus = recipe.search.gpus
    if gpus is None:
        gpus = float(any("GPU" in node["Resources"] and node["Resources"]["GPU"] >= 1 for node in nodes))
    return Place(max(1, recipe.distill.engine.threads), gpus)


def at_once(place: Place, nodes: Sequence[Node]) -> int:
    """How many trials fit on the nodes, at least one."""
    return max(1, sum(place.on(node) for node in nodes))


def group(place: Place) -> Any:
    """What Ray Tune reserves for a trial: one bundle, on nodes with the labels that the recipe wants for training."""
    from ray import tune

    option = session.placed("train")
    where: dict[str, Any] = {"bundle_label_selector": [option["label_selector"]]} if option else {}
    return tune.PlacementGroupFactory([place.bundle()], **where)


def hide_gpus(place: Place) -> None:
    """Keep a trial that reserved no GPU off the node's: Ray leaves them visible to such a worker (cluster.environment),
    and all trials would train on the first one. Comes before anything of CUDA is asked for."""
    if not place.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

"""What a recipe needs of a cluster, group by group: who generates, who trains, who serves, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.submit import stamp

Step = Literal["generate", "train", "serve"]

STORE_HINT = "--store s3://BUCKET/runs, or a folder that all nodes mount"


@dataclass(frozen=True)
class Options:
    """What a person decides who deploys: where the image and the artifacts are, and which names are secrets.

    `store`: URI or mounted folder; `secrets`: variables that the Kubernetes Secret of that name holds; `gpu`: train on
    GPUs, and generate on them where the recipe asks for it; `spot`: generate on nodes that may be taken away.
    """

    image: str = "raydistill:latest"
    namespace: str = "raydistill"
    store: str | None = None
    secrets: tuple[str, ...] = ()
    gpu: bool = False
    spot: bool = True

    def checked_store(self) -> str:
        """The store; raises InputError where it cannot be reached from other machines."""
        if self.store is None or ("://" not in self.store and not self.store.startswith("/")):
            raise InputError("where do the artifacts go?", got=self.store, hint=STORE_HINT)
        return self.store


@dataclass(frozen=True)
class Group:
    """Nodes of one kind: how few and how many (count), each with `cpus`, `memory_gib` and `gpus`."""

    step: Step
    fewest: int
    most: int
    cpus: int
    memory_gib: int
    gpus: int
    may_be_taken: bool

    @property
    def labels(self) -> dict[str, str]:
        """What a recipe's `resources.labels` chooses these nodes by."""
        return {"raydistill/step": self.step}


def groups(recipe: Recipe, options: Options) -> list[Group]:
    """Return the groups of a recipe.

    generate scales from none to one node per teacher actor and may be taken away (its rows are checkpointed); train is
    as large as the larger of fit and distill and is not taken away; serve stands apart, so that a training never
    starves an answer.
    """
    fit, distill = recipe.fit.engine, recipe.distill.engine
    workers = max(distill.workers, fit.workers if recipe.fit.enabled else 0)
    threads = max(distill.threads, fit.threads)
    # The student and its control arm train at the same time.
    trainings = 2 if recipe.distill.control else 1
    teacher_gpus = max(1, round(recipe.generate.gpus)) if recipe.generate.gpus else 0
    return [
        Group("generate", 0, recipe.generate.concurrency, 2 + round(recipe.generate.cpus), 8,
              teacher_gpus, options.spot),
        Group("train", 0, workers * trainings, 1 + threads, 16, 1 if options.gpu else 0, False),
        Group("serve", 1, max(2, recipe.serving.replicas), 2, 4, 0, False),
    ]  # fmt: skip


def labels_of(recipe: Recipe) -> list[str]:
    """Return the `--set`s that place each step's workers on their group."""
    names = "generate", "train", "serve"
    elastic = recipe.distill.engine.min_workers is not None or recipe.fit.engine.min_workers is not None
    chosen = [name for name in names if not (name == "train" and elastic)]
    pairs = ", ".join(f"{name}: {{raydistill/step: {name}}}" for name in chosen)
    return ["--set", f"resources.labels={{{pairs}}}"]


def command(recipe_name: str, recipe: Recipe, options: Options) -> str:
    """Return the shell command of the whole run on such a cluster."""
    import shlex

    words = ("python", "-m", "jobs", "run", recipe_name, *labels_of(recipe), "--store", options.checked_store())
    return shlex.join(stamp.Asked(words).command)

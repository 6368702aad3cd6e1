"""What a step is: a named, versioned function from finished artifacts to a new one, run once per set of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster import tracing
from cluster.recipe import Recipe
from cluster.session import commit
from cluster.store import Artifact, Draft, Store, artifact_id
from jobs.before import licences


@dataclass(frozen=True)
class Work:
    """What a step's body gets: the recipe, the store, its parents by kind, and the draft it writes into."""

    recipe: Recipe
    store: Store
    parents: Mapping[str, Artifact]
    draft: Draft


@dataclass(frozen=True)
class Step:
    """A step of the pipeline. `version` is raised when the body's meaning changes; it is part of the artifact's id.

    `sections` are the recipe parts that decide the result, `parents` the steps whose artifacts it reads, `body` does
    the work, and `extra` adds what names inputs outside the recipe (hashes of data files).
    """

    name: str
    kind: str
    version: int
    sections: tuple[str, ...]
    parents: tuple[Step, ...]
    body: Callable[[Work], None]
    extra: Callable[[Recipe], Mapping[str, Any]] = lambda recipe: {}

    def section(self, recipe: Recipe) -> dict[str, Any]:
        """The inputs from recipe and data that decide the artifact's id."""
        return {**recipe.part(*self.sections), **self.extra(recipe)}

    def id(self, recipe: Recipe) -> str:
        """The artifact's id, known before anything has run."""
        parents = {parent.kind: parent.id(recipe) for parent in self.parents}
        return artifact_id(self.kind, self.section(recipe), parents, self.version)

    def find(self, recipe: Recipe, store: Store) -> Artifact | None:
        """The finished artifact, or None."""
        return store.find(self.kind, self.id(recipe))

    def run(self, recipe: Recipe, store: Store) -> Artifact:
        """The step's artifact: found, or made now from its parents' (which must be there: raises ArtifactMissing)."""
        parents = {parent.kind: store.get(parent.kind, parent.id(recipe)) for parent in self.parents}
        about = {kind: artifact.id for kind, artifact in parents.items()}
        section, aid = self.section(recipe), self.id(recipe)
        with store.draft(
            self.kind, aid, section=section, parents=about, step_version=self.version, commit=commit()
        ) as draft:
            if not draft.done:
                draft.note(licences=licences.facts(recipe))
                with tracing.span(f"step {self.name}", kind=self.kind, artifact=aid, run=run_name(recipe)):
                    self.body(Work(recipe, store, parents, draft))
        return draft.artifact


def run_name(recipe: Recipe) -> str:
    """A run is named by its recipe and what is in it: the same recipe is the same run."""
    return f"{recipe.name}-{recipe.fingerprint()[:8]}"

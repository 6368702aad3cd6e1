"""Which bundle a recipe's promoted model is and the teacher behind it, and who becomes champion next."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import AliasConflict, InputError
from cluster.recipe import Recipe
from cluster.registry import ARTIFACT_TAG, Registry, Version
from cluster.store import Store
from serving.deployment.served import CHALLENGER, Names, ServedArm
from serving.seams.observe import CHAMPION

ALIASES = (CHAMPION, CHALLENGER)
PREVIOUS = "previous"
DECISIONS = "decisions.jsonl"  # in the store's serving folder: what was changed, the last line is how it stands


@dataclass(frozen=True)
class Promoted:
    """Folders to serve from, and how answers are signed."""

    bundle: Path
    teacher: Path
    names: Names


@dataclass(frozen=True)
class Catalog:
    """A registered model's versions, by alias; travels to the control actor, and opens the registry there."""

    store: str
    model: str
    tracking_uri: str | None = None

    def find(self, alias: str) -> Promoted | None:
        """What the alias names, None when it names nothing. Raises StoreError when that is gone or changed."""
        version = self._registry.alias(self.model, alias)
        return None if version is None else self._promoted(version)

    def arm(self, alias: str, name: str) -> ServedArm | None:
        """What the alias names, as an arm without a share."""
        found = self.find(alias)
        if found is None:
            return None
        names = found.names
        folder = str(found.bundle.resolve())
        return ServedArm(name=name, model=names.model, version=names.version, bundle=folder, weight=0.0)

    def crown(self, alias: str, version: str, champion: str) -> dict[str, int]:
        """Let `version`, which `alias` named, be champion, if `champion` is it now; the old one becomes previous. An
        alias that names a newer version by now stays. Returns the aliases as they were, for `uncrown`.

        Raises AliasConflict when somebody else moved the champion.
        """
        before = self._registry.aliases(self.model)
        expect = int(champion) if champion.isdecimal() else before.get(CHAMPION)
        self._registry.set_alias(self.model, CHAMPION, int(version), expect=expect)
        if alias != PREVIOUS:
            with contextlib.suppress(AliasConflict):
                self._registry.set_alias(self.model, alias, None, expect=int(version))
        return before

    def uncrown(self, alias: str, version: str, before: Mapping[str, int]) -> None:
        """Undo `crown(alias, version, ...)`, which returned `before`; what others moved since stays. Raises
        AliasConflict when that is the champion."""
        self._registry.set_alias(self.model, CHAMPION, before.get(CHAMPION), expect=int(version))
        for one, now in ((alias, None), (PREVIOUS, int(version))):
            with contextlib.suppress(AliasConflict):
                self._registry.set_alias(self.model, one, before.get(one), expect=now)

    @property
    def decisions(self) -> Path:
        """The file that remembers what was changed while it was served."""
        return Store.open(self.store).workspace / "serving" / DECISIONS

    @property
    def _registry(self) -> Registry:
        return Registry.beside(Store.open(self.store).workspace, self.tracking_uri)

    def _promoted(self, version: Version) -> Promoted:
        store = Store.open(self.store)
        bundle = store.get("bundle", version.tags[ARTIFACT_TAG])
        teacher = store.get("teacher", bundle.manifest.parents["teacher"])
        names = Names(self.model, str(version.version), teacher.id)
        return Promoted(bundle.path(), teacher.path() / "hf", names)


def catalog_of(recipe: Recipe, store: Store) -> Catalog:
    """The catalog of a recipe's model."""
    return Catalog(str(store.root), recipe.promote.model_name, recipe.promote.tracking_uri)


def find(recipe: Recipe, store: Store, alias: str | None = None) -> Promoted:
    """The champion of the recipe's model, else the challenger; or what `alias` names.

    Raises InputError when nothing was promoted, StoreError when what was promoted is gone or changed.
    """
    catalog = catalog_of(recipe, store)
    wanted = ALIASES if alias is None else (alias,)
    for one in wanted:
        found = catalog.find(one)
        if found is not None:
            return found
    hint = f"python -m jobs run {recipe.name} --store {store.root}"
    what = f"no version of {catalog.model} is promoted"
    raise InputError(what, expected=f"an alias {' or '.join(wanted)}", hint=hint)

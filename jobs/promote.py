"""Register the bundle that passed its gates under a name and an alias; what is served is decided there, not here.

The first promoted version becomes champion, every later one gets the recipe's alias (challenger by default). Hands on
an artifact with facts only: model, version, alias, and what was forced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cluster import pauses
from cluster.errors import StoreError
from cluster.measured import STUDENT_INT8
from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.session import commit
from cluster.store import Artifact, Store
from jobs import evaluate, export
from jobs.before import licences
from jobs.measure import gates
from jobs.step import Step, Work, run_name

CHAMPION, TEACHER = "champion", "teacher"
LICENCE = "licence_allows"  # the gate that `--accept-terms` overrules


def body(work: Work, *, force: bool = False, accepted: Collection[str] = ()) -> None:
    """Register and alias the bundle. Raises GateFailed unless every gate is passed or `force` is given (then noted),
    InputError where the teacher's terms forbid training on its outputs and are not among the `accepted` (noted too)."""
    pauses.refuse(work.store, work.recipe.promote.model_name, "promote", run_name(work.recipe))
    overruled = licences.refuse(work.recipe, accepted)
    report, section = evaluate.report_of(work.parents["report"]), work.recipe.promote
    if not force:
        gates.refuse_failed([gate for gate in report["gates"] if not (overruled and gate["name"] == LICENCE)])
    bundle = work.parents["bundle"]
    registry = Registry.beside(work.store.workspace, section.tracking_uri)
    version = registry.register(section.model_name, source_uri(work.store, bundle), _lineage(work, report))
    alias = give_alias(registry, section.model_name, version, section.alias)
    name_teacher(work, registry, report)
    failed = [name for name, _, _ in gates.failed(report["gates"])]
    work.draft.note(
        model=section.model_name,
        version=version,
        alias=alias,
        registry=registry.uri,
        forced=failed if force else [],
        accepted_terms=overruled,
    )


def give_alias(registry: Registry, model: str, version: int, alias: str) -> str:
    """Let `alias` name the version and return it; "champion" when there is none yet or the version is it already.

    Raises AliasConflict when somebody else moved the alias meanwhile.
    """
    champion = registry.alias(model, CHAMPION)
    if champion is None or champion.version == version:
        alias = CHAMPION
    current = registry.alias(model, alias)
    if current is None or current.version != version:
        registry.set_alias(model, alias, version, expect=current.version if current else None)
    return alias


def name_teacher(work: Work, registry: Registry, report: Mapping[str, Any]) -> None:
    """Register the teacher behind the bundle as a version of its own, and let alias `teacher` name it: what defers to a
    teacher and what is compared with one find it where they find the student."""
    model, teacher = work.recipe.promote.model_name, work.store.get("teacher", report["artifacts"]["teacher"])
    tags = {"artifact_id": teacher.id, "kind": "teacher", "run": report["run"], "report_id": work.parents["report"].id}
    version = registry.register(model, source_uri(work.store, teacher), tags)
    current = registry.alias(model, TEACHER)
    if current is None or current.version != version:
        registry.set_alias(model, TEACHER, version, expect=current.version if current else None)


def source_uri(store: Store, bundle: Artifact) -> str:
    """Where the bundle's files lie: a path on this host for a local store, else a URI below the store's root."""
    if Path(store.root) == store.workspace:
        return str(bundle.path())
    return f"{store.root.rstrip('/')}/{bundle.kind}/{bundle.id}/{bundle.manifest.directory}"


def confirm(recipe: Recipe, store: Store, promotion: Artifact) -> None:
    """Raise StoreError when the registry has lost what an earlier promotion registered, saying how to repair it.

    The promotion is an artifact, so it is not done twice; the registry is outside the store and may be moved or lost.
    """
    facts = promotion.manifest.facts
    registry = Registry.beside(store.workspace, recipe.promote.tracking_uri)
    bundle = promotion.manifest.parents[export.STEP.kind]
    try:
        found = registry.lineage(facts["model"], facts["version"])
    except StoreError as error:
        raise StoreError(f"{error}\n  hint: {_repair(store, promotion)}") from None
    if found["artifact_id"] != bundle:
        what = f"{facts['model']} {facts['version']} in {registry.uri} is not what was promoted"
        what += f"\n  got: bundle {found['artifact_id']}\n  expected: bundle {bundle}"
        raise StoreError(f"{what}\n  hint: {_repair(store, promotion)}")


def _repair(store: Store, promotion: Artifact) -> str:
    return f"remove {store.root}/{promotion.kind}/{promotion.id} and run `python -m jobs promote` again"


def _lineage(work: Work, report: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the version: every artifact it comes from, the commit, the run, and its headline numbers."""
    tags = {f"{kind}_id": aid for kind, aid in report["artifacts"].items() if kind != "bundle"}
    primary = report["primary_metric"]
    return tags | {
        "artifact_id": work.parents["bundle"].id,
        "kind": "bundle",
        "commit": commit(),
        "run": report["run"],
        "recipe": report["recipe"]["name"],
        primary: str(report["models"][STUDENT_INT8]["metrics"][primary]),
        "retention": str(report["retention"]["value"]),
        "gates_failed": ",".join(name for name, _, _ in gates.failed(report["gates"])),
    }


STEP = Step("promote", "promotion", 1, ("promote",), (export.STEP, evaluate.STEP), body, licences.identity)


def overruling(force: bool, accepted: Collection[str]) -> Step:
    """The step with what only the command can say: the same artifact by another body, which notes what it overruled."""
    return replace(STEP, body=partial(body, force=force, accepted=tuple(accepted)))

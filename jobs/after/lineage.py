"""`jobs lineage MODEL`: from the served bundle back to prompt templates, teacher, data and code, every file checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.errors import ArtifactCorrupt, StoreError
from cluster.registry import Version
from cluster.store import Artifact, Store
from jobs.after import naming, wording
from jobs.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

# From what is served to what it came from; a kind that is not listed follows at the end.
ORDER = ("bundle", "student", "curated", "samples", "teacher")
BESIDE = ("control", "report")  # not what the bundle is made of, but what it was judged by


def trace(store: Store, asked: str) -> dict[str, Any]:
    """`model` (name, version, aliases; null for a run that was not promoted), `run`, `recipe`, and `artifacts` from the
    bundle back to the teacher, then what it was judged by.

    Each artifact: kind, id, parents, commit, created, seconds, files, bytes, `intact` (null: its folder is gone), and
    `about`, what people ask of it. Raises InputError for an unknown name.
    """
    found = naming.find(store, asked)
    nodes = _walk(store, "bundle", found.artifacts["bundle"]) if "bundle" in found.artifacts else {}
    for kind in (*ORDER, *BESIDE):
        if kind in found.artifacts and kind not in nodes:
            nodes |= {kind: _node(store, kind, found.artifacts[kind])}
    places = {kind: place for place, kind in enumerate((*ORDER, *BESIDE))}
    ordered = sorted(nodes.values(), key=lambda node: places.get(node["kind"], len(places)))
    recipe = {"name": found.recipe.name, "fingerprint": found.recipe.fingerprint()}
    return {"asked": asked, "model": _model(store, found), "run": found.run, "recipe": recipe, "artifacts": ordered}


def broken(document: Mapping[str, Any]) -> list[str]:
    """What of the document of `trace` is not there or not as it was written, in words."""
    return [f"{node['kind']} {node['id']}: {node['problem']}" for node in document["artifacts"] if node["problem"]]


def _walk(store: Store, kind: str, aid: str) -> dict[str, dict[str, Any]]:
    """An artifact and everything it was made from, by kind."""
    node = _node(store, kind, aid)
    nodes = {kind: node}
    for parent, parent_id in node["parents"].items():
        if parent not in nodes:
            nodes |= {name: one for name, one in _walk(store, parent, parent_id).items() if name not in nodes}
    return nodes


def _node(store: Store, kind: str, aid: str) -> dict[str, Any]:
    artifact = store.find(kind, aid)
    if artifact is None:
        empty = dict.fromkeys(("commit", "created", "seconds", "files", "bytes", "intact"))
        return {"kind": kind, "id": aid, "parents": {}, **empty, "problem": "not in the store", "about": {}}
    manifest, problem = artifact.manifest, None
    try:
        artifact.path()
    except ArtifactCorrupt as error:
        problem = str(error).splitlines()[0]
    return {
        "kind": kind, "id": aid, "parents": manifest.parents, "commit": manifest.commit, "created": manifest.created,
        "seconds": manifest.seconds, "files": len(manifest.files), "intact": problem is None, "problem": problem,
        "bytes": sum(entry.bytes for entry in manifest.files.values()), "about": _about(artifact),
    }  # fmt: skip


def _about(artifact: Artifact) -> dict[str, Any]:
    """What people ask of an artifact of this kind; facts that an older step did not note are left out."""
    section, facts = artifact.manifest.section, artifact.manifest.facts
    if artifact.kind == "teacher":
        wanted = {"fitted": facts, "teacher_of": facts, "rows": section, "teacher": section, "seed": section}
    elif artifact.kind == "samples":
        asked = section.get("generate", {})
        wanted = {"templates": asked, "temperature": asked, "identity": facts, "answered": facts, "reused": facts}
    elif artifact.kind == "curated":
        wanted = {"in": facts, "kept": facts, "reasons": facts, "people": facts}
    elif artifact.kind == "student":
        wanted = {"continued": facts, "replayed": facts, "student": section}
    else:
        wanted = dict.fromkeys(("scheme", "engine", "bytes", "batch_invariant", "retention", "gates_failed"), facts)
    return {name: place[name] for name, place in wanted.items() if name in place}


def _model(store: Store, found: naming.Named) -> dict[str, Any] | None:
    """The registered version of the run's bundle, with the aliases that name it."""
    name = found.recipe.promote.model_name
    registry = naming.registry_of(store, name)
    version = _own(found.version) or registry.of_artifact(name, found.artifacts["bundle"])
    if version is None:
        return None
    aliases = sorted(alias for alias, number in registry.aliases(name).items() if number == version.version)
    return {"name": name, "version": version.version, "aliases": aliases, "source": version.source,
            "tags": version.tags, "registry": registry.uri}  # fmt: skip


def _own(version: Version | None) -> Version | None:
    return None if version is None or version.tags.get("kind") == "teacher" else version


def show(console: Console, document: Mapping[str, Any]) -> None:
    """The document of `trace` for people: one block per artifact, from what is served to where it began."""
    from rich.markup import escape

    model = document["model"]
    if model is None:
        named = f"{document['run']} (not promoted)"
    else:
        named = f"{model['name']} {model['version']}" + "".join(f" @{alias}" for alias in model["aliases"])
    console.print(f"[bold]{escape(named)}[/bold], run {document['run']}, recipe {document['recipe']['name']}")
    for depth, node in enumerate(document["artifacts"]):
        state = "[green]intact[/green]" if node["intact"] else f"[red]{escape(str(node['problem']))}[/red]"
        arrow = "   " if node["kind"] in BESIDE else f"{'':>{2 * min(depth, 4)}}\u2190 " if depth else ""
        console.print(f"{arrow}[bold]{node['kind']}[/bold] {node['id']}  {state}", highlight=False)
        for line in _lines(node):
            say(console, f"{'':>{2 * min(depth, 4) + 4}}{line}")


def _lines(node: Mapping[str, Any]) -> Sequence[str]:
    if node["commit"] is None:
        return ()
    size = f"{node['files']} files, {wording.size(node['bytes'])}, {wording.seconds(node['seconds'])}"
    lines = [f"commit {node['commit'][:12]}, {node['created']}, {size}"]
    return [*lines, *(f"{name}: {_short(value)}" for name, value in node["about"].items() if value not in (None, {}))]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(own)}" for name, own in value.items() if own not in (None, {}, []))
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}\u2026" if " " not in text else f"{text[:60]}\u2026"


def refuse_broken(document: Mapping[str, Any]) -> None:
    """Raise StoreError naming every artifact that is gone or was changed."""
    if problems := broken(document):
        raise StoreError("\n  ".join([f"the lineage of {document['asked']} is not whole", *problems]))

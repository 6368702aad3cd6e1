"""Takes over answers that the same teacher gave before: a run with more samples asks only for the missing ones.

Rows are found by `sample_id`, which is of the request. Whose answers they are is in the manifest's `identity`: teacher
weights, tokenizer, task, templates and form of the labels must be the same, or the old answers are refused by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.canonical import digest
from cluster.errors import ArtifactMismatch
from cluster.recipe import GenerateSection
from cluster.store import Artifact, Store
from jobs.data import answers
from jobs.data.labels import reader
from jobs.data.requests import templates

log = logging.getLogger(__name__)
KIND = "samples"
# Files of the teacher's folder that make one part of its identity, by name or suffix.
PARTS: Mapping[str, tuple[str, ...]] = {
    "teacher": (".safetensors", ".bin", "config.json"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "task": ("task.json",),
}


def identity(teacher: Artifact, section: GenerateSection) -> dict[str, Any]:
    """What an answer depends on beside its request: hashes (64 hex) of the teacher's files, of each template by name,
    and of how labels are kept."""
    files = {name.rpartition("/")[2]: entry.sha256 for name, entry in teacher.manifest.files.items() if "hf/" in name}
    out: dict[str, Any] = {}
    tokenizer = PARTS["tokenizer"]
    for part, endings in PARTS.items():
        own = {name: sha for name, sha in files.items() if name.endswith(endings)}
        if part == "teacher":
            own = {name: sha for name, sha in own.items() if name not in tokenizer}
        out[part] = digest(own)
    out["templates"] = templates.hashes(section.templates)
    out["schema"] = schema.SCHEMA_VERSION
    out["labels"] = digest([section.labels.identity(), section.hidden_layers or section.hidden_layer])
    return out


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name of the first field that differs, None when answers may be taken over. Further templates do no harm."""
    for field in new:
        if field == "templates":
            shared = set(old["templates"]) & set(new["templates"])
            changed = sorted(name for name in shared if old["templates"][name] != new["templates"][name])
            if changed:
                return f"templates.{changed[0]}"
        elif field not in old or old[field] != new[field]:
            return field
    return None


def find(store: Store, section: GenerateSection, own: Mapping[str, Any]) -> list[Artifact]:
    """Finished samples whose answers may be taken over, newest first; those that may not are logged with the field.

    Raises ArtifactMissing when `generate.reuse` names none that is there, ArtifactMismatch naming the field when the
    one it names is of another teacher, tokenizer, task, template or form of labels.
    """
    if section.reuse == "never":
        return []
    if section.reuse != "auto":
        artifact = store.get(KIND, section.reuse)
        field = _difference(artifact, own)
        if field is not None:
            old = artifact.manifest.facts["identity"] if field != "identity" else {}
            got, expected = _value(old, field), _value(own, field)
            raise ArtifactMismatch(f"{KIND}/{artifact.id} (generate.reuse)", field, got=got, expected=expected)
        return [artifact]
    found = []
    for artifact in reversed(store.list(KIND)):
        field = _difference(artifact, own)
        if field is None:
            found.append(artifact)
        else:
            log.info("answers of %s/%s are not taken over: %s differs", KIND, artifact.id, field)
    return found


def answered(requests: pa.Table, sources: list[Artifact]) -> pa.Table:
    """Rows as `jobs.data.answers.Answerer` maps them, for all requests that a source has an answer to; each id once.

    What a request holds is the new table's; only what the teacher said is the source's.
    """
    rows = requests.slice(0, 0)
    for field in answers.ANSWER_SCHEMA:
        if field.name != "sample_id":
            rows = rows.append_column(field, pa.array([], field.type))
    parts, wanted = [rows], requests
    for artifact in sources:
        if not len(wanted):
            break
        folder = artifact.path()
        samples = pq.read_table(folder / reader.SAMPLES)
        old = answers.with_labels(samples, pq.read_table(folder / reader.LABELS))
        place = pc.index_in(wanted["sample_id"].combine_chunks(), samples["sample_id"].combine_chunks())
        own, wanted = wanted.filter(pc.is_valid(place)), wanted.filter(pc.is_null(place))
        said = old.take(pc.drop_null(place))
        for field in answers.ANSWER_SCHEMA:
            if field.name != "sample_id":
                own = own.append_column(field, said[field.name].cast(field.type))
        parts.append(own)
    return pa.concat_tables(parts)


def _difference(artifact: Artifact, own: Mapping[str, Any]) -> str | None:
    facts = artifact.manifest.facts
    return differing(facts["identity"], own) if "identity" in facts else "identity"


def _value(values: Mapping[str, Any], field: str) -> Any:
    part, _, name = field.partition(".")
    if part not in values:
        return "not recorded"
    return values[part][name] if name else values[part]

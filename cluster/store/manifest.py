"""What an artifact says about itself, how its id is made, and the artifact that readers get."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, Field

from cluster.canonical import digest, file_digest
from cluster.errors import ArtifactCorrupt, ArtifactMismatch
from cluster.store.filesystem import Files

SCHEMA_VERSION = 1
ID_CHARACTERS = 16
MANIFEST = "manifest.json"

# (size in bytes, mtime in ns) of every file whose sha256 this process has seen to be right, by its path.
_verified: dict[Path, tuple[int, int, str]] = {}


def artifact_id(kind: str, section: Mapping[str, Any], parents: Mapping[str, str], step_version: int) -> str:
    """Return 16 hex characters of the sha256 over what decides the content; the commit is recorded, not hashed.

    section: JSON-ready recipe part; parents: role -> artifact id; step_version: raised when a step's meaning changes.
    """
    content = {"kind": kind, "section": dict(section), "parents": dict(parents), "step_version": step_version}
    return digest(content)[:ID_CHARACTERS]


class FileEntry(pydantic.BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(pydantic.BaseModel):
    """The last thing that is written of an artifact; without it there is no artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(SCHEMA_VERSION, description="Form of this document.")
    kind: str = Field(description="What it is: teacher, samples, student, bundle, report...")
    id: str = Field(description="artifact_id of its inputs.")
    section: dict[str, Any] = Field(description="The recipe part it was made from.")
    section_hash: str = Field(description="sha256 of the section's canonical JSON.")
    parents: dict[str, str] = Field(description="Role -> artifact id of what it was made from.")
    step_version: int = Field(description="Version of the step that made it.")
    commit: str = Field(description="Code that made it; not part of the id.")
    facts: dict[str, Any] = Field(description="What the step noted: row counts, revisions, seconds.")
    files: dict[str, FileEntry] = Field(description="Path below the directory -> checksum and size.")
    directory: str = Field(description="Folder beside this document that holds the files; one per attempt.")
    attempts: int = Field(ge=1, description="Times the step was started for this id (count).")
    executions: int = Field(ge=1, description="Times the step ran to its end for this id (count).")
    created: str = Field(description="When it was finished (ISO 8601, UTC).")
    seconds: float = Field(ge=0, description="Wall time of the attempt that finished it (s).")


def parse_manifest(text: bytes, kind: str, aid: str) -> Manifest:
    """Return the manifest of kind/aid.

    Raises ArtifactCorrupt (not readable) or ArtifactMismatch (another version, kind, id or section).
    """
    name = f"{kind}/{aid}"
    try:
        manifest = Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        found = error.errors()[0]
        raise ArtifactCorrupt(name, MANIFEST, got=f"{'.'.join(map(str, found['loc']))}: {found['msg']}") from None
    wanted = {"schema_version": SCHEMA_VERSION, "kind": kind, "id": aid, "section_hash": digest(manifest.section)}
    for field, expected in wanted.items():
        if getattr(manifest, field) != expected:
            raise ArtifactMismatch(name, field, got=getattr(manifest, field), expected=expected)
    return manifest


class Artifact:
    """A finished artifact. Reading `manifest` costs nothing; `path()` checks (and from a bucket fetches) the files."""

    def __init__(self, manifest: Manifest, files: Files) -> None:
        self.manifest = manifest
        self._files = files

    def __repr__(self) -> str:
        return f"Artifact({self.kind}/{self.id})"

    @property
    def kind(self) -> str:
        """What it is: teacher, samples, student, bundle, report..."""
        return self.manifest.kind

    @property
    def id(self) -> str:
        """The 16 hex characters that its inputs decide."""
        return self.manifest.id

    def path(self) -> Path:
        """Return the local folder with the files, each one's sha256 checked once per process (again when size or mtime
        changed).

        Files that the manifest does not name (a __pycache__) are ignored. Raises ArtifactCorrupt naming the first bad
        or missing file.
        """
        where = f"{self.kind}/{self.id}/{self.manifest.directory}"
        folder = self._files.workspace / where
        for name, entry in self.manifest.files.items():
            self._files.fetch(f"{where}/{name}", functools.partial(_is_right, entry))
            got = _seen(folder / name)
            if got != entry.sha256:
                raise ArtifactCorrupt(f"{self.kind}/{self.id}", name, got=got or "no such file", expected=entry.sha256)
        folder.mkdir(parents=True, exist_ok=True)  # an artifact may be its facts alone
        return folder


def _is_right(entry: FileEntry, path: Path) -> bool:
    return _seen(path) == entry.sha256


def _seen(path: Path) -> str | None:
    """Return the file's sha256, from memory while size and mtime stand; None when there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    size, mtime, sha = _verified.get(path, (-1, -1, ""))
    if (size, mtime) != (stat.st_size, stat.st_mtime_ns):
        sha = file_digest(path)
        _verified[path] = (stat.st_size, stat.st_mtime_ns, sha)
    return sha

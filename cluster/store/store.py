"""Finds, reads and writes artifacts and small records below one directory or bucket.

Layout: <root>/<kind>/<id>/manifest.json, journal.jsonl, lock, scratch/ and one folder per attempt (the manifest names
the right one); <root>/records/<name>.json.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cluster.canonical import canonical_json
from cluster.errors import ArtifactCorrupt, ArtifactMissing, StoreError
from cluster.store.draft import SCRATCH, Draft, journal, read_artifact
from cluster.store.filesystem import Files, open_files, remove_local
from cluster.store.lock import hold
from cluster.store.manifest import MANIFEST, Artifact

RECORDS = "records"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


class Store:
    """A root with artifacts and records. It pickles, so a Ray worker can take it along; open it with `Store.open`."""

    def __init__(self, root: str, files: Files) -> None:
        self.root = root
        self._files = files

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    @classmethod
    def open(cls, root: str | Path, *, cache: Path | None = None) -> Self:
        """Return the store below a directory (made when first written) or any pyarrow.fs URI (file://, s3://,
        gs://...).

        cache: local folder in front of a remote store; default $RAYDISTILL_CACHE, else ~/.cache/raydistill. Raises
        InputError on a URI of an unknown kind.
        """
        files = open_files(root, cache)
        return cls(str(files.workspace) if files.local else str(root), files)

    @property
    def workspace(self) -> Path:
        """Local folder: the store itself, or the cache in front of a remote one."""
        return self._files.workspace

    def find(self, kind: str, aid: str) -> Artifact | None:
        """Return the finished artifact or None.

        Raises ArtifactCorrupt, ArtifactMismatch on a manifest that is not its own.
        """
        return read_artifact(self._files, _checked(kind), _checked(aid))

    def get(self, kind: str, aid: str) -> Artifact:
        """Return the finished artifact; raises ArtifactMissing."""
        found = self.find(kind, aid)
        if found is None:
            raise ArtifactMissing(kind, aid, hint=f"looked in {self.root}; run the step that makes it")
        return found

    def list(self, kind: str) -> Sequence[Artifact]:
        """Return the finished artifacts of a kind, oldest first."""
        found = [self.find(kind, aid) for aid in self._files.folders(_checked(kind))]
        return sorted((one for one in found if one is not None), key=lambda one: (one.manifest.created, one.id))

    def attempts(self, kind: str, aid: str) -> int:
        """Return how often the artifact was started (count), whether or not it was finished."""
        return journal(self._files, _checked(kind), _checked(aid)).count("started")

    @contextlib.contextmanager
    def draft(
        self,
        kind: str,
        aid: str,
        *,
        section: Mapping[str, Any],
        parents: Mapping[str, str],
        step_version: int,
        commit: str = "unknown",
    ) -> Iterator[Draft]:
        """Take the artifact's lock and give a Draft.

        What lies in its `path` at the end of the block becomes the artifact.

        When it is finished already, `draft.done` is True at once and nothing is written. On an exception nothing is
        committed and `scratch` is kept for the next attempt. Raises TypeError or ValueError where `section` has no
        JSON form.
        """
        section = json.loads(canonical_json(dict(section)))
        about = {"section": section, "parents": dict(parents), "step_version": step_version, "commit": commit}
        draft = Draft(self._files, _checked(kind), _checked(aid), about)
        with hold(self._files, f"{kind}/{aid}"):
            draft.begin()
            if draft.done:
                remove_local(
                    self.workspace / kind / aid / SCRATCH
                )  # left by a kill between the manifest and the clearing
                yield draft
                return
            try:
                yield draft
            except BaseException as error:
                draft.fail(error)
                raise
            draft.commit()

    def adopt(self, artifact: Artifact) -> Artifact:
        """Copy an artifact of another store in, files checked and the manifest last; nothing when it is there already.

        Raises ArtifactCorrupt where the other store's files are not what they were.
        """
        kind, aid = artifact.kind, artifact.id
        with hold(self._files, f"{kind}/{aid}"):
            if (known := self.find(kind, aid)) is not None:
                return known
            key = f"{kind}/{aid}/{artifact.manifest.directory}"
            shutil.copytree(artifact.path(), self.workspace / key, dirs_exist_ok=True)
            self._files.publish(key)
            self._files.write(f"{kind}/{aid}/{MANIFEST}", artifact.manifest.model_dump_json(indent=1).encode())
        return self.get(kind, aid)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a small JSON document whole or not at all (a run, a pointer); the last writer wins."""
        self._files.write(_record_key(name), json.dumps(dict(record), indent=1, allow_nan=False).encode())

    def read_record(self, name: str) -> dict[str, Any] | None:
        """Return the document, None when there is none; raises ArtifactCorrupt when it is no JSON object."""
        text = self._files.read(_record_key(name))
        if text is None:
            return None
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ArtifactCorrupt(RECORDS, f"{name}.json", got=error, expected="a JSON object") from None
        return dict(record)

    def records(self, prefix: str = "") -> Sequence[str]:
        """Return the names of all documents that start with `prefix`, sorted."""
        names = [name.removesuffix(".json") for name in self._files.names(RECORDS) if name.endswith(".json")]
        return [name for name in names if name.startswith(prefix)]

    def write_file(self, key: str, data: bytes) -> None:
        """Write one file of an append-only table whole or not at all; `key` is "/"-separated, below the root."""
        self._files.write(_key(key), data)

    def read_file(self, key: str) -> bytes | None:
        """Return the file's bytes, None when there is none."""
        return self._files.read(_key(key))

    def files(self, prefix: str) -> Sequence[str]:
        """Return the keys of all files below a folder, sorted; [] when there is no such folder."""
        return [f"{prefix}/{name}" for name in self._files.names(_key(prefix))]

    def remove_file(self, key: str) -> None:
        """Remove one file; nothing happens when there is none."""
        self._files.remove(_key(key))


def _checked(name: str) -> str:
    """Return a kind or id that is safe as one folder name; raises StoreError."""
    if not NAME.match(name):
        raise StoreError(f"{name!r} cannot name an artifact: letters, digits, '_', '-' and '.' only")
    return name


def _key(key: str) -> str:
    return "/".join(_checked(part) for part in key.split("/"))


def _record_key(name: str) -> str:
    return _key(f"{RECORDS}/{name}") + ".json"

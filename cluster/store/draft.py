"""An artifact while it is written.

A folder of its own, a scratch folder that survives a crash, and the journal of attempts.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.canonical import digest, file_digest
from cluster.errors import StoreError
from cluster.store.filesystem import Files, files_below
from cluster.store.manifest import MANIFEST, Artifact, FileEntry, Manifest, parse_manifest

JOURNAL = "journal.jsonl"
SCRATCH = "scratch"


class Draft:
    """What `Store.draft` gives.

    Write into `path`, keep what must survive a crash in `scratch`, `note` facts for the manifest.
    """

    def __init__(self, files: Files, kind: str, aid: str, about: Mapping[str, Any]) -> None:
        self.kind, self.id = kind, aid
        self._files, self._about = files, dict(about)
        self._key = f"{kind}/{aid}"
        self._attempt = uuid.uuid4().hex
        self._facts: dict[str, Any] = {}
        self._started = time.monotonic()
        self._artifact: Artifact | None = None

    @property
    def done(self) -> bool:
        """True when the artifact is there: finished before, or by somebody else meanwhile, or committed now."""
        return self._artifact is not None

    @property
    def artifact(self) -> Artifact:
        """The finished artifact; raises StoreError before there is one."""
        if self._artifact is None:
            raise StoreError(f"{self._key} is not finished: its artifact is there after the with block")
        return self._artifact

    @property
    def path(self) -> Path:
        """Local folder, empty at first; all that lies in it at the end becomes the artifact.

        Raises StoreError when `done`.
        """
        if self.done:
            raise StoreError(f"{self._key} is finished: read draft.artifact, do not write")
        return self._files.workspace / self._key / self._attempt

    @property
    def scratch(self) -> Path:
        """Local folder, the same for the next attempt (Ray Train storage_path, Ray Data checkpoint).

        Removed after the commit.
        """
        folder = self._files.workspace / self._key / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def note(self, **facts: Any) -> None:
        """Add JSON-ready facts to the manifest (row counts, teacher revision, seconds); a later value of a name wins.

        Raises TypeError or ValueError at once on what has no JSON form (a tensor, NaN), not after the work is done.
        """
        digest(facts)
        self._facts.update(facts)

    def begin(self) -> None:
        """Under the lock: take the finished artifact if there is one, else clear dead attempts and start a new one."""
        self._started = time.monotonic()  # waiting for the lock is not the step's time
        self._artifact = read_artifact(self._files, self.kind, self.id)
        if self._artifact is not None:
            return
        folder = self._files.workspace / self._key
        dead = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        dead |= set(self._files.folders(self._key))
        for name in dead - {JOURNAL, SCRATCH, "lock", "lease.json"}:
            self._files.remove(f"{self._key}/{name}")
        self._record("started")
        self.path.mkdir(parents=True)

    def fail(self, error: BaseException) -> None:
        """Write into the journal why this attempt ended; its files stay until the next attempt."""
        with contextlib.suppress(
            OSError
        ):  # a full disk fails the attempt and this line; the first error is the one to see
            self._record("failed", reason=f"{type(error).__name__}: {error}"[:500])

    def commit(self) -> None:
        """Publish the files, then the manifest; the first complete manifest wins."""
        folder, key = self.path, f"{self._key}/{self._attempt}"
        names = files_below(folder)
        files = {
            name: FileEntry(sha256=file_digest(folder / name), bytes=(folder / name).stat().st_size) for name in names
        }
        self._files.publish(key)
        self._record("finished")
        events = journal(self._files, self.kind, self.id)
        manifest = Manifest(
            **self._about,
            kind=self.kind,
            id=self.id,
            section_hash=digest(self._about["section"]),
            facts=self._facts,
            files=files,
            directory=self._attempt,
            attempts=events.count("started"),
            executions=events.count("finished"),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=round(time.monotonic() - self._started, 3),
        )
        # Only a remote store can have a rival here (see lock.hold); its manifest stands and this attempt's files are
        # dropped.
        rival = read_artifact(self._files, self.kind, self.id)
        if rival is None:
            self._files.write(f"{self._key}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
        else:
            self._files.remove(key)
        self._artifact = rival or Artifact(manifest, self._files)
        self._files.remove(f"{self._key}/{SCRATCH}")

    def _record(self, event: str, **facts: Any) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._files.append(
            f"{self._key}/{JOURNAL}", json.dumps({"event": event, "attempt": self._attempt, "at": at, **facts})
        )


def read_artifact(files: Files, kind: str, aid: str) -> Artifact | None:
    """Return the finished artifact, None when there is no manifest.

    Raises ArtifactCorrupt, ArtifactMismatch on a bad manifest.
    """
    text = files.read(f"{kind}/{aid}/{MANIFEST}")
    return None if text is None else Artifact(parse_manifest(text, kind, aid), files)


def journal(files: Files, kind: str, aid: str) -> list[str]:
    """Return the events of all attempts in order: started, failed, finished. A line torn by a power cut is left out."""
    events = []
    for line in (files.read(f"{kind}/{aid}/{JOURNAL}") or b"").splitlines():
        try:
            events.append(str(json.loads(line)["event"]))
        except (ValueError, KeyError):
            continue
    return events

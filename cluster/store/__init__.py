"""The artifact store: same inputs, same id; written aside, manifest last; every file checked when it is read."""

from cluster.store.draft import Draft
from cluster.store.manifest import Artifact, FileEntry, Manifest, artifact_id
from cluster.store.store import Store

__all__ = ["Artifact", "Draft", "FileEntry", "Manifest", "Store", "artifact_id"]

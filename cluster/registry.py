"""Which version of a model is champion, challenger or previous, kept on MLflow and moved only by compare-and-set."""

import contextlib
import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.canonical import digest
from cluster.errors import AliasConflict, ArtifactMissing, StoreError
from cluster.store.lock import hold_file

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ARTIFACT_TAG = "artifact_id"
SQLITE = "sqlite:///"
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for no such model, no such alias


@dataclasses.dataclass(frozen=True)
class Version:
    """One registered version; `source` says where its bundle lies, `tags` where it comes from."""

    model: str
    version: int
    source: str
    tags: dict[str, str]


class Registry:
    """Model versions and aliases below one MLflow URI.

    MLflow has no compare-and-set, so every change happens under a file lock: beside the database for SQLite, in the
    temporary folder for a server, where it orders the writers of one host only.
    """

    def __init__(self, uri: str) -> None:
        """uri: sqlite:///PATH, or any MLflow tracking URI. Nothing is opened before the first call."""
        self.uri = uri
        self._client: MlflowClient | None = None

    @classmethod
    def beside(cls, workspace: Path, tracking_uri: str | None = None) -> "Registry":
        """Return the registry of `promote.tracking_uri`; where that is null, SQLite in a store's workspace."""
        return cls(tracking_uri or f"{SQLITE}{workspace / 'mlflow.db'}")

    def register(self, model_name: str, source_uri: str, tags: Mapping[str, str]) -> int:
        """Return the version number; the same tags["artifact_id"] gives the same version again.

        Raises StoreError without that tag.
        """
        if ARTIFACT_TAG not in tags:
            raise StoreError(f"a version of {model_name} needs the tag {ARTIFACT_TAG}")
        with self._lock(), _quiet():
            self._ensure(model_name)
            known = self._open().search_model_versions(
                f"name='{model_name}' and tags.{ARTIFACT_TAG}='{tags[ARTIFACT_TAG]}'"
            )
            if known:
                return min(int(version.version) for version in known)
            return int(self._open().create_model_version(model_name, source_uri, tags=dict(tags)).version)

    def alias(self, model_name: str, alias: str) -> Version | None:
        """Return the version that an alias names, None when the model or the alias is not there."""
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                found = self._open().get_model_version_by_alias(model_name, alias)
        except MlflowException as error:
            if error.error_code in NOT_FOUND:
                return None
            raise StoreError(f"the registry at {self.uri} does not answer: {error}") from error
        return Version(model_name, int(found.version), str(found.source), dict(found.tags))

    def version(self, model_name: str, version: int) -> Version | None:
        """Return a version by its number, None when it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                found = self._open().get_model_version(model_name, str(version))
        except MlflowException as error:
            if error.error_code in NOT_FOUND:
                return None
            raise StoreError(f"the registry at {self.uri} does not answer: {error}") from error
        return Version(model_name, int(found.version), str(found.source), dict(found.tags))

    def of_artifact(self, model_name: str, artifact_id: str) -> Version | None:
        """Return the first version whose tag artifact_id is this one, None when there is none."""
        with _quiet():
            known = self._open().search_model_versions(f"name='{model_name}' and tags.{ARTIFACT_TAG}='{artifact_id}'")
        numbers = sorted(int(version.version) for version in known)
        return self.version(model_name, numbers[0]) if numbers else None

    def aliases(self, model_name: str) -> dict[str, int]:
        """Return alias -> version of a model, {} when there is no such model."""
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                found = self._open().get_registered_model(model_name)
        except MlflowException as error:
            if error.error_code in NOT_FOUND:
                return {}
            raise StoreError(f"the registry at {self.uri} does not answer: {error}") from error
        return {alias: int(version) for alias, version in found.aliases.items()}

    def set_alias(self, model_name: str, alias: str, version: int | None, expect: int | None) -> None:
        """Let the alias name `version` if it names `expect` now, else raise AliasConflict; None stands for no version.

        When champion moves, the old champion becomes `previous`, so that a rollback is one more set_alias. Raises
        ArtifactMissing when there is no such version.
        """
        with self._lock(), _quiet():
            current = self.alias(model_name, alias)
            now = current.version if current else None
            if now != expect:
                raise AliasConflict(model_name, alias, got=now, expected=expect)
            if version is None:
                if now is not None:
                    self._open().delete_registered_model_alias(model_name, alias)
                return
            self.lineage(model_name, version)
            if alias == "champion" and now is not None and now != version:
                self._open().set_registered_model_alias(model_name, "previous", str(now))
            self._open().set_registered_model_alias(model_name, alias, str(version))

    def lineage(self, model_name: str, version: int) -> dict[str, str]:
        """Return the tags of a version: artifact id, parents, commit, metrics.

        Raises ArtifactMissing when there is none.
        """
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                return dict(self._open().get_model_version(model_name, str(version)).tags)
        except MlflowException as error:
            if error.error_code in NOT_FOUND:
                raise ArtifactMissing(
                    "model version", f"{model_name} {version}", hint=f"looked in {self.uri}"
                ) from None
            raise StoreError(f"the registry at {self.uri} does not answer: {error}") from error

    @contextlib.contextmanager
    def session(self) -> "Iterator[MlflowClient]":
        """Give MLflow's client while the file lock is held: for tracking beside the registry."""
        with self._lock(), _quiet():
            yield self._open()

    def _open(self) -> "MlflowClient":
        if self._client is None:
            with _quiet():
                from mlflow.tracking import MlflowClient

                if self.uri.startswith(SQLITE):
                    Path(self.uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
                self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _ensure(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._open().get_registered_model(model)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise StoreError(f"the registry at {self.uri} does not answer: {error}") from error
            self._open().create_registered_model(model)

    def _lock(self) -> "contextlib.AbstractContextManager[None]":
        if self.uri.startswith(SQLITE):
            return hold_file(Path(self.uri.removeprefix(SQLITE) + ".lock"))
        return hold_file(
            Path(tempfile.gettempdir()) / f"raydistill-{os.getuid()}" / f"registry-{digest(self.uri)[:16]}.lock"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from telling of its tables, of others' deprecations, and of its users to its makers."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

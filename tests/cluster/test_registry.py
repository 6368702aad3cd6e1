"""The registry on a real MLflow with SQLite: idempotent versions, aliases by compare-and-set, lineage."""

import threading
from pathlib import Path

import pytest

from cluster.errors import AliasConflict, ArtifactMissing, StoreError
from cluster.registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One database for all tests of this file (making its tables takes seconds); every test has a model of its own."""
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'new' / 'mlflow.db'}")


def test_the_same_artifact_is_registered_once(registry: Registry) -> None:
    first = registry.register("once", "/bundles/a", {"artifact_id": "a"})
    assert registry.register("once", "/bundles/a", {"artifact_id": "a"}) == first
    assert registry.register("once", "/bundles/b", {"artifact_id": "b"}) == first + 1


def test_a_version_without_an_artifact_is_refused(registry: Registry) -> None:
    with pytest.raises(StoreError, match="needs the tag artifact_id"):
        registry.register("once", "/bundles/a", {})


def test_an_alias_of_no_model_or_of_no_version_is_none(registry: Registry) -> None:
    assert registry.alias("never seen", "champion") is None
    registry.register("young", "/bundles/a", {"artifact_id": "a"})
    assert registry.alias("young", "champion") is None


def test_an_alias_moves_only_from_where_its_writer_saw_it(registry: Registry) -> None:
    one = registry.register("moves", "/bundles/a", {"artifact_id": "a"})
    two = registry.register("moves", "/bundles/b", {"artifact_id": "b"})
    registry.set_alias("moves", "challenger", one, expect=None)
    with pytest.raises(AliasConflict) as error:
        registry.set_alias("moves", "challenger", two, expect=None)
    assert (error.value.got, error.value.expected) == (one, None)
    found = registry.alias("moves", "challenger")
    assert found is not None
    assert (found.version, found.source, found.tags) == (one, "/bundles/a", {"artifact_id": "a"})
    registry.set_alias("moves", "challenger", None, expect=one)
    assert registry.alias("moves", "challenger") is None


def test_a_new_champion_leaves_the_old_one_as_previous_and_a_rollback_swaps_them(registry: Registry) -> None:
    one = registry.register("swap", "/bundles/a", {"artifact_id": "a"})
    two = registry.register("swap", "/bundles/b", {"artifact_id": "b"})
    registry.set_alias("swap", "champion", one, expect=None)
    assert registry.alias("swap", "previous") is None
    registry.set_alias("swap", "champion", two, expect=one)
    registry.set_alias("swap", "champion", one, expect=two)
    champion, previous = registry.alias("swap", "champion"), registry.alias("swap", "previous")
    assert champion is not None
    assert previous is not None
    assert (champion.version, previous.version) == (one, two)


def test_lineage_is_the_tags_of_a_version_and_an_unknown_version_is_missing(registry: Registry) -> None:
    tags = {"artifact_id": "a", "commit": "c0ffee", "parents": "samples=1"}
    version = registry.register("line", "/bundles/a", tags)
    assert registry.lineage("line", version) == tags
    with pytest.raises(ArtifactMissing, match="line 99"):
        registry.lineage("line", 99)
    with pytest.raises(ArtifactMissing):
        registry.set_alias("line", "champion", 99, expect=None)


def test_of_many_writers_that_saw_the_same_champion_one_wins(registry: Registry) -> None:
    versions = [registry.register("race", f"/bundles/{n}", {"artifact_id": str(n)}) for n in range(4)]
    outcomes: list[str] = []

    def promote(version: int) -> None:
        try:
            Registry(registry.uri).set_alias("race", "champion", version, expect=None)
        except AliasConflict:
            outcomes.append("conflict")
        else:
            outcomes.append("won")

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "conflict", "conflict", "won"]


def test_nothing_is_opened_or_written_before_the_first_call(tmp_path: Path) -> None:
    assert Registry.beside(tmp_path / "later").uri == f"sqlite:///{tmp_path}/later/mlflow.db"
    assert Registry.beside(tmp_path, "http://mlflow:5000").uri == "http://mlflow:5000"
    assert not (tmp_path / "later").exists()

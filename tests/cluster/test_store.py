"""The store: commit, crash, corruption, and buckets."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.canonical import digest
from cluster.errors import ArtifactCorrupt, ArtifactMismatch, ArtifactMissing, InputError, StoreError
from cluster.store import Artifact, Store, artifact_id, lock

SECTION = {"epochs": 2}
AID = artifact_id("student", SECTION, {"samples": "0" * 16}, 1)


def draft(store: Store, aid: str = AID) -> Any:
    return store.draft("student", aid, section=SECTION, parents={"samples": "0" * 16}, step_version=1, commit="c0ffee")


def make(store: Store, **files: str) -> Artifact:
    with draft(store) as one:
        for name, text in (files or {"weights.bin": "w"}).items():
            (one.path / name).parent.mkdir(parents=True, exist_ok=True)
            (one.path / name).write_text(text)
        one.note(rows=3)
    artifact: Artifact = one.artifact
    return artifact


@pytest.fixture(params=["directory", "file uri", "memory", "mock"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The same behaviour is asked of a plain directory, a file:// URI, an fsspec file system and Arrow's own mock."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    root = {
        "directory": str(tmp_path / "store"),
        "file uri": f"file://{tmp_path}/store",
        "memory": f"fsspec+memory://{tmp_path.name}/store",
        "mock": "mock:///bucket/store",
    }[request.param]
    yield Store.open(root, cache=tmp_path / "cache")
    if request.param == "memory":
        import fsspec  # type: ignore[import-untyped]

        fsspec.filesystem("memory").store.clear()


def test_what_lies_in_the_draft_at_the_end_is_the_artifact(any_store: Store) -> None:
    artifact = make(any_store, **{"config.json": "{}", "sub/model.bin": "weights"})
    found = any_store.get("student", AID)
    assert found.id == artifact.id == AID
    assert (found.path() / "sub" / "model.bin").read_text() == "weights"
    assert sorted(found.manifest.files) == ["config.json", "sub/model.bin"]
    assert found.manifest.files["config.json"].bytes == 2
    assert found.manifest.facts == {"rows": 3}
    assert found.manifest.parents == {"samples": "0" * 16}
    assert found.manifest.commit == "c0ffee"
    assert found.manifest.section_hash == digest(SECTION)
    assert (found.manifest.attempts, found.manifest.executions) == (1, 1)


def test_an_exception_commits_nothing_keeps_scratch_and_is_counted(any_store: Store) -> None:
    with pytest.raises(ZeroDivisionError), draft(any_store) as one:
        (one.path / "half.bin").write_text("half")
        (one.scratch / "checkpoint").write_text("step 7")
        raise ZeroDivisionError
    assert any_store.find("student", AID) is None
    assert any_store.attempts("student", AID) == 1
    with draft(any_store) as one:
        assert (one.scratch / "checkpoint").read_text() == "step 7"
        assert list(one.path.iterdir()) == []
        (one.path / "whole.bin").write_text("whole")
    assert list(one.artifact.manifest.files) == ["whole.bin"]
    assert (one.artifact.manifest.attempts, one.artifact.manifest.executions) == (2, 1)
    assert not (any_store.workspace / "student" / AID / "scratch").exists()


def test_garbage_of_dead_attempts_is_gone_after_the_next_draft(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), draft(store) as one:
        (one.path / "half.bin").write_text("half")
        raise KeyboardInterrupt
    dead = store.workspace / "student" / AID / one._attempt
    assert dead.exists()
    artifact = make(store)
    left = {path.name for path in (store.workspace / "student" / AID).iterdir()}
    assert left == {"manifest.json", "journal.jsonl", "lock", artifact.manifest.directory}


def test_a_finished_artifact_is_not_made_again(any_store: Store) -> None:
    first = make(any_store)
    with draft(any_store) as one:
        assert one.done
        assert one.artifact.manifest == first.manifest
        with pytest.raises(StoreError, match="is finished"):
            _ = one.path
    assert any_store.attempts("student", AID) == 1


def test_an_artifact_may_be_its_facts_alone(any_store: Store) -> None:
    with draft(any_store) as one:
        one.note(version=4)
    assert any_store.get("student", AID).manifest.facts == {"version": 4}
    assert any_store.get("student", AID).path().is_dir()


def test_the_artifact_of_a_draft_is_there_only_after_the_block(store: Store) -> None:
    with draft(store) as one, pytest.raises(StoreError, match="not finished"):
        _ = one.artifact


@pytest.mark.parametrize("value", [object(), float("nan"), b"bytes"])
def test_a_fact_without_a_json_form_is_refused_when_it_is_noted(store: Store, value: object) -> None:
    with pytest.raises((TypeError, ValueError)), draft(store) as one:
        one.note(loss=value)


def test_list_gives_the_finished_ones_and_get_says_what_is_missing(any_store: Store) -> None:
    make(any_store)
    with pytest.raises(OSError, match="stop"), draft(any_store, "f" * 16):
        raise OSError("stop")
    assert [one.id for one in any_store.list("student")] == [AID]
    assert any_store.list("bundle") == []
    with pytest.raises(ArtifactMissing, match="no student ffff"):
        any_store.get("student", "f" * 16)


def test_records_are_small_documents_by_name(any_store: Store) -> None:
    assert any_store.read_record("runs/latest") is None
    any_store.write_record("runs/latest", {"run": "a"})
    any_store.write_record("runs/latest", {"run": "b"})
    any_store.write_record("paused", {"why": "drift"})
    assert any_store.read_record("runs/latest") == {"run": "b"}
    assert list(any_store.records()) == ["paused", "runs/latest"]
    assert list(any_store.records("runs/")) == ["runs/latest"]


def test_a_record_that_is_no_json_is_refused(store: Store) -> None:
    store.write_record("pointer", {"a": 1})
    (store.workspace / "records" / "pointer.json").write_text("{")
    with pytest.raises(ArtifactCorrupt, match=r"pointer\.json"):
        store.read_record("pointer")


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b"])
def test_a_name_that_leaves_its_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name an artifact"):
        store.find("student", name)


def test_one_corrupt_byte_is_refused_by_the_name_of_its_file(store: Store) -> None:
    artifact = make(store, **{"a.bin": "aaaa", "sub/b.bin": "bbbb"})
    path = artifact.path() / "sub" / "b.bin"
    path.write_text("bbxb")
    with pytest.raises(ArtifactCorrupt, match=r"sub/b\.bin") as error:
        store.get("student", AID).path()
    assert error.value.expected == artifact.manifest.files["sub/b.bin"].sha256
    assert error.value.got != error.value.expected


def test_a_missing_file_is_refused_by_its_name(store: Store) -> None:
    artifact = make(store)
    (artifact.path() / "weights.bin").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"(?s)weights\.bin.*no such file"):
        artifact.path()


def test_a_file_that_the_manifest_does_not_name_is_no_harm(store: Store) -> None:
    artifact = make(store)
    (artifact.path() / "__pycache__").mkdir()
    assert artifact.path().is_dir()


def test_checksums_are_read_once_per_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make(store)
    artifact.path()
    monkeypatch.setattr("cluster.store.manifest.file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert store.get("student", AID).path().is_dir()


def test_a_damaged_copy_in_the_cache_is_fetched_again_and_a_damaged_bucket_is_refused(tmp_path: Path) -> None:
    store = Store.open("mock:///bucket", cache=tmp_path / "cache")
    artifact = make(store)
    copy = artifact.path() / "weights.bin"
    copy.write_text("damaged")
    assert (artifact.path() / "weights.bin").read_text() == "w"
    copy.unlink()
    store._files.write(f"student/{AID}/{artifact.manifest.directory}/weights.bin", b"damaged")
    with pytest.raises(ArtifactCorrupt, match=r"weights\.bin"):
        artifact.path()


@pytest.mark.parametrize(
    ("field", "value"),
    [("schema_version", 99), ("kind", "teacher"), ("id", "0" * 16), ("section", {"epochs": 3}), ("section_hash", "0")],
)
def test_a_manifest_that_is_not_its_own_names_the_field(store: Store, field: str, value: Any) -> None:
    make(store)
    path = store.workspace / "student" / AID / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ArtifactMismatch) as error:
        store.get("student", AID)
    assert error.value.field == ("section_hash" if field == "section" else field)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema_version": 1}'])
def test_a_torn_manifest_is_corrupt_not_missing(store: Store, text: str) -> None:
    make(store)
    (store.workspace / "student" / AID / "manifest.json").write_text(text)
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        store.find("student", AID)


def test_a_torn_line_of_the_journal_is_left_out(store: Store) -> None:
    folder = store.workspace / "student" / AID
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"event": "started"}\n{"event": "sta')
    assert store.attempts("student", AID) == 1


def test_an_unknown_kind_of_uri_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no store at nosuch://bucket"):
        Store.open("nosuch://bucket")


def test_a_store_travels_to_a_worker(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(store)).get("student", AID).path().is_dir()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(section=st.dictionaries(st.text(), plain, max_size=4), parents=st.dictionaries(st.text(), st.text(), max_size=3))
def test_an_id_is_a_function_of_its_inputs_and_of_nothing_else(
    section: dict[str, Any], parents: dict[str, str]
) -> None:
    first = artifact_id("student", section, parents, 1)
    turned = dict(reversed(section.items())), dict(reversed(parents.items()))
    assert artifact_id("student", *turned, 1) == first
    assert artifact_id("student", json.loads(json.dumps(section)), parents, 1) == first
    assert len(first) == 16
    assert first not in {
        artifact_id("teacher", section, parents, 1),
        artifact_id("student", section, parents, 2),
        artifact_id("student", {**section, "new key": 1}, parents, 1),
        artifact_id("student", section, {**parents, "new key": "x"}, 1),
    }

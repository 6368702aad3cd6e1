"""What is logged is sampled, masked, counted and whole; what is read is one record per request."""

import io
import threading
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import schema
from cluster.errors import ArtifactMismatch
from cluster.recipe import TrafficSection
from cluster.store import Store, tables
from serving.traffic import log as traffic
from serving.traffic import verdicts
from serving.traffic.log import TrafficLog
from serving.traffic.verdicts import Verdict


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"request_id": f"r{number}", "at": 1000 + number, "prompt": f"question {number}", "arm": "champion", **more}


def logged(store: Store, rows: list[dict[str, Any]], **knobs: Any) -> Counter[str]:
    counted: Counter[str] = Counter()
    writer = TrafficLog(store, "m", TrafficSection(**knobs), lambda what, rows: counted.update({what: rows}))
    for one in rows:
        writer.add(one)
    writer.close()
    return counted


def test_every_row_is_there_after_the_log_is_closed_in_files_of_the_size_asked_for(store: Store) -> None:
    counted = logged(store, [row(number) for number in range(25)], file_rows=10)
    assert counted == {"written": 25}
    assert len(store.files("traffic/m")) == 3
    assert traffic.read(store, "m")["request_id"].to_pylist() == [f"r{number}" for number in range(25)]


def test_a_repeated_request_and_a_repeated_feedback_change_nothing(store: Store) -> None:
    said = {"request_id": "r1", "at": 2000, "label": "seven", "reward": 1.0}
    logged(store, [row(1, answer="six"), row(1, answer="six"), said, said, row(2)])
    first, second = traffic.read(store, "m").to_pylist()
    assert (first["request_id"], first["answer"], first["label"], first["reward"]) == ("r1", "six", "seven", 1.0)
    assert (first["at"], first["prompt"]) == (1001, "question 1")
    assert (second["request_id"], second["label"]) == ("r2", None)


def test_feedback_that_is_written_before_its_request_is_merged_too(store: Store) -> None:
    logged(store, [{"request_id": "r1", "at": 2000, "reward": 0.5}])
    logged(store, [row(1, answer="six")])
    (merged,) = traffic.read(store, "m").to_pylist()
    assert (merged["answer"], merged["reward"]) == ("six", 0.5)


@pytest.mark.parametrize(
    ("policy", "prompt", "counted"),
    [("mask", "mail <EMAIL> now", {"written": 1}), ("drop", None, {"pii": 1}),
     ("keep", "mail ann@example.org now", {"written": 1})],
)  # fmt: skip
def test_personal_data_never_reaches_the_disk_unless_the_policy_says_so(
    store: Store, policy: str, prompt: str | None, counted: dict[str, int]
) -> None:
    assert logged(store, [row(1, prompt="mail ann@example.org now")], pii=policy) == counted
    assert traffic.read(store, "m")["prompt"].to_pylist() == ([] if prompt is None else [prompt])
    on_disk = b"".join(store.read_file(key) or b"" for key in store.files("traffic/m"))
    assert (b"ann@example.org" in on_disk) == (policy == "keep")


def test_feedback_is_masked_as_well(store: Store) -> None:
    logged(store, [{"request_id": "r1", "at": 1, "label": "ask ann@example.org"}])
    assert traffic.read(store, "m")["label"].to_pylist() == ["ask <EMAIL>"]


def test_pictures_are_left_out_where_media_are_not_kept(store: Store) -> None:
    logged(store, [row(1, images=[b"png"])], media=False)
    assert traffic.read(store, "m")["images"].to_pylist() == [None]
    logged(store, [row(2, images=[b"png"])])
    assert traffic.read(store, "m")["images"].to_pylist() == [None, [b"png"]]


def test_sounds_and_videos_are_kept_where_media_are(store: Store) -> None:
    shown = {"audio": b"wav", "frames": [b"png", b"png"], "fps": 8.0}
    logged(store, [row(1, **shown)], media=False)
    logged(store, [row(2, **shown)])
    plain, kept = traffic.read(store, "m").select([*shown]).to_pylist()
    assert plain == dict.fromkeys(shown) and kept == shown


def test_traffic_of_before_sounds_were_kept_is_still_read(store: Store) -> None:
    key = tables.append(store, "traffic", "m", [row(1)], now_ms=1000)
    data = store.read_file(key)
    assert data is not None
    older, made = pq.read_table(io.BytesIO(data)).drop_columns(["audio", "fps"]), io.BytesIO()
    pq.write_table(older.append_column("media_ref", pa.nulls(1, pa.string())), made)
    store.write_file(key, made.getvalue())
    assert traffic.read(store, "m")["audio"].to_pylist() == [None]
    pq.write_table(older.drop_columns(["at"]), made := io.BytesIO())
    store.write_file(key, made.getvalue())
    with pytest.raises(ArtifactMismatch, match="column at"):
        traffic.read(store, "m")


def test_a_file_of_another_schema_version_is_refused_and_columns_in_another_order_are_not(store: Store) -> None:
    data = store.read_file(key := tables.append(store, "traffic", "m", [row(1)], now_ms=1000))
    assert data is not None
    rows, made = pq.read_table(io.BytesIO(data)), io.BytesIO()
    pq.write_table(rows.select(rows.column_names[::-1]).replace_schema_metadata(None), made)
    store.write_file(key, made.getvalue())
    assert traffic.read(store, "m").equals(rows)
    pq.write_table(rows.replace_schema_metadata({schema.VERSION_KEY: "99"}), made := io.BytesIO())
    store.write_file(key, made.getvalue())
    with pytest.raises(ArtifactMismatch, match="schema_version"):
        traffic.read(store, "m")


def test_a_sample_keeps_the_feedback_of_the_requests_it_keeps(store: Store) -> None:
    rows = [row(number) for number in range(400)]
    said = [{"request_id": one["request_id"], "at": 5000, "reward": 1.0} for one in rows]
    logged(store, rows + said, share=0.25)
    read = traffic.read(store, "m").to_pylist()
    assert 60 <= len(read) <= 140
    assert all(one["reward"] == 1.0 and one["prompt"] for one in read)


def test_a_full_queue_drops_rows_counts_them_and_blocks_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write = tables.append

    def slow(*arguments: Any) -> str:
        gate.wait(10)
        return write(*arguments)

    monkeypatch.setattr(tables, "append", slow)  # a disk that does not answer
    counted: Counter[str] = Counter()
    section = TrafficSection(queue=5, file_rows=1)
    writer = TrafficLog(store, "m", section, lambda what, rows: counted.update({what: rows}))
    for number in range(50):
        writer.add(row(number))
    assert counted["queue_full"] >= 44
    gate.set()
    writer.close()
    assert counted["written"] + counted["queue_full"] == 50
    assert traffic.read(store, "m").num_rows == counted["written"]


def test_a_store_that_fails_loses_rows_and_says_so_but_the_log_goes_on(store: Store) -> None:
    (store.workspace / "traffic").parent.mkdir(parents=True, exist_ok=True)
    (store.workspace / "traffic").write_text("a file where a folder should be")
    assert logged(store, [row(1)]) == {"failed": 1}


def test_old_files_are_removed_and_new_ones_stay(store: Store) -> None:
    tables.append(store, "traffic", "m", [row(1)], now_ms=1000)
    logged(store, [row(2)])
    assert traffic.read(store, "m")["request_id"].to_pylist() == ["r2"]


def test_verdicts_come_back_as_they_were_given_oldest_first(store: Store) -> None:
    late = Verdict(2000, "experiment", "m", "3", "agreement", "rollback", value=0.8, reference=0.9, drop=0.11, rows=600,
                   detail={"log_e": 4.2, "arms": {"champion": 300}}, request_ids=["a", "b"])  # fmt: skip
    early = Verdict(1000, "manual", "m", "2", "none", "promote")
    verdicts.append(store, late)
    verdicts.append(store, early)
    read = verdicts.read(store, "m")
    assert [one.decision for one in read] == ["promote", "rollback"]
    assert (read[1].detail, list(read[1].request_ids)) == (dict(late.detail), ["a", "b"])
    assert read[1].value == pytest.approx(0.8)
    assert verdicts.read(store, "m", since_ms=1500) == [read[1]]
    assert verdicts.read(store, "another") == []

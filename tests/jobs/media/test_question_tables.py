"""Questions over media from the user's files: every form a cell may have, joins, and rows set aside by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError
from cluster.recipe import DataSection
from jobs.data import augment, question_tables, questions
from jobs.data.question_tables import Columns, Join
from jobs.data.questions import NONE, Asked, Bank
from serving.bundle import sounds

SOUND = sounds.wav(np.arange(400, dtype=np.int16), 8000)


def png(value: int, side: int = 8) -> bytes:
    return augment.encoded(np.full((side, side), value, np.uint8))


def read(folder: Path, train: list[dict[str, Any]], joins: list[Join] | None = None, **columns: Any) -> Bank:
    """The bank of these training rows and two test rows."""
    test = [{"text": "which shade ?", "label": "t", **{name: train[0][name] for name in train[0] if name not in BOTH}}]
    for split, own in (("train", train), ("test", test * 2)):
        pq.write_table(pa.Table.from_pylist(own), folder / f"{split}.parquet")
    section = DataSection(source="table", train=str(folder / "train.parquet"), test=str(folder / "test.parquet"))
    return question_tables.read(section, Columns(**columns), joins or [], 0)


BOTH = ("text", "label")
ROW = {"text": "which shade ?", "label": "dark"}


def shown(bank: Bank) -> list[int]:
    """The shade of the first picture of every training and validation row."""
    return sorted(
        int(bank.pixels[images[0], 0, 0, 0]) for name in ("train", "validation") for images in bank.splits[name].images
    )


def test_pictures_are_read_encoded_raw_and_by_path(tmp_path: Path) -> None:
    (tmp_path / "three.png").write_bytes(png(3))
    beside = {"image_format": None, "height": None, "width": None, "channels": None}
    raw = {"image_format": "raw-uint8-hwc", "height": 8, "width": 8, "channels": 1}
    bank = read(
        tmp_path,
        [
            {**ROW, "image": png(1), **beside},
            {**ROW, "image": bytes([2] * 64), **raw},
            {**ROW, "image": b"three.png", **beside},
        ],
    )
    assert shown(bank) == [1, 2, 3]
    assert bank.pixels.shape[1:] == (8, 8, 3)
    assert not bank.dead


def test_sounds_are_read_as_samples_with_a_rate_and_as_files(tmp_path: Path) -> None:
    rows = [{**ROW, "audio": [1, 2, 3 + row], "sample_rate": 8000} for row in range(3)]
    bank = read(tmp_path, rows)
    assert bank.rate == 8000
    assert [one.tolist() for one in bank.sounds] == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    files = [{**ROW, "audio": SOUND}, {**ROW, "audio": sounds.wav(np.ones(9, np.int16), 8000)}]
    assert [len(one) for one in read(tmp_path, files).sounds] == [400, 9]


def test_a_video_is_its_frames_in_order(tmp_path: Path) -> None:
    rows = [{**ROW, "frames": [png(value), png(9), png(value)], "fps": 4.0} for value in (5, 6)]
    bank = read(tmp_path, rows)
    assert bank.most_frames == 3
    assert bank.splits["test"].fps.tolist() == [4.0, 4.0]
    frames = bank.splits["test"].frames[0]
    assert bank.pixels[list(frames), 0, 0, 0].tolist() == [5, 9, 5]
    assert len(bank.pixels) == 3  # what is met again is held once


def test_media_are_joined_by_id_from_tables_of_the_same_split(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for split in ("train", "test"):
        table = pa.table({"id": [10, 11, 12], "image": [png(value) for value in (1, 2, 3)]})
        pq.write_table(table, tmp_path / "media" / f"pictures_{split}.parquet")
        pq.write_table(pa.table({"name": ["a"], "audio": [SOUND]}), tmp_path / f"sounds_{split}.parquet")
    joins = [
        Join(table="media/pictures_{split}.parquet", on="picture"),
        Join(table="sounds_{split}.parquet", on="sound", key="name"),
    ]
    rows = [{**ROW, "picture": number, "sound": "a"} for number in (12, 10, 99)]
    bank = read(tmp_path, rows, joins)
    assert shown(bank) == [1, 3]
    assert bank.splits["train"].sounds.tolist() == [0]
    assert [(one.row, one.reason) for one in bank.dead] == [(2, "no_such_id")]
    assert set(bank.splits["train"].slices) == {"image+audio"}
    (tmp_path / "sounds_test.parquet").unlink()
    with pytest.raises(DataError, match=r"(?s)no such data file.*sounds_test"):
        read(tmp_path, rows, joins)
    with pytest.raises(DataError, match="has no column 'file'"):
        read(tmp_path, rows, [Join(table="media/pictures_{split}.parquet", on="picture", key="file")])


def test_a_question_without_an_id_is_about_the_media_that_it_has(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"name": ["a"], "audio": [SOUND]}), tmp_path / f"sounds_{split}.parquet")
    joins = [Join(table="sounds_{split}.parquet", on="sound", key="name")]
    clip = {"frames": [png(1), png(2)], "fps": 2.0}
    rows = [{**ROW, **clip, "sound": None, "image": None}, {**ROW, **clip, "sound": None, "image": png(3)},
            {**ROW, **clip, "sound": "a", "image": png(4), "frames": None}]  # fmt: skip
    bank = read(tmp_path, rows, joins)
    found = {name for split in ("train", "validation") for name in bank.splits[split].slices}
    assert found == {"video", "image+video", "image+audio"}
    assert not bank.dead


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"text": None}, "null_text"),
        ({"image": b"no picture at all, and no path either" * 200}, "unreadable_picture"),
        ({"image": png(1, side=9)}, "wrong_size"),
        ({"image": None}, "no_media"),
        ({"audio": b"no sound"}, "unreadable_sound"),
        ({"audio": sounds.wav(np.ones(9, np.int16), 16000)}, "wrong_rate"),
        ({"frames": [png(1)]}, "no_fps"),
        ({"frames": [png(1), png(1, side=4)], "fps": 1.0}, "wrong_size"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_with_its_reason(
    tmp_path: Path, bad: dict[str, Any], reason: str
) -> None:
    plain = {**ROW, "image": png(7), "audio": None, "frames": None, "fps": None}
    heard = {**plain, "audio": SOUND}
    bank = read(tmp_path, [heard, {**plain, "image": png(8)}, {**plain, **bad}])
    assert [(one.file, one.row, one.reason) for one in bank.dead] == [("train.parquet", 2, reason)]
    assert len(bank.splits["train"]) + len(bank.splits["validation"]) == 2


def test_a_training_row_without_an_answer_is_left_to_the_teacher(tmp_path: Path) -> None:
    rows = [{**ROW, "image": png(value), "label": None if value == 2 else "dark"} for value in range(4)]
    bank = read(tmp_path, rows)
    assert sorted(str(one) for name in ("train", "validation") for one in bank.splits[name].answers) == [
        "None", "dark", "dark", "dark",
    ]  # fmt: skip


def test_a_file_without_a_usable_row_and_the_same_rows_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)holds no usable row.*no_media"):
        read(tmp_path, [{**ROW, "image": None}])
    section = DataSection(source="table", train=str(tmp_path / "train.parquet"), test=str(tmp_path / "train.parquet"))
    with pytest.raises(DataError, match="are the same rows"):
        question_tables.read(section, Columns(), [], 0)


media = st.lists(st.tuples(st.integers(0, 6), st.integers(NONE, 3)), min_size=2, max_size=60)


@given(media, st.floats(0.05, 0.6), st.integers(0, 9))
def test_validation_rows_share_no_picture_with_training_rows(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    images: list[tuple[int, ...]] = [(picture,) for picture, _ in rows]
    count = len(rows)
    asked = Asked(
        ["a"] * count, ["b"] * count, ["s"] * count, images, [()] * count, np.array([sound for _, sound in rows]),
        np.zeros(count, np.float32), np.arange(count),
    )  # fmt: skip
    if len(set(images)) < 2:
        with pytest.raises(DataError, match="too few"):
            questions.cut(asked, share, seed)
        return
    parts = questions.cut(asked, share, seed)
    assert sorted([*parts["train"].numbers, *parts["validation"].numbers]) == list(range(count))
    assert not set(parts["train"].images) & set(parts["validation"].images)
    assert len(parts["train"]) and len(parts["validation"])

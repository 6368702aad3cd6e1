"""Pictures out of users' tables: every kind of cell, what is set aside, the size networks see, and random views."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster.errors import DataError
from cluster.recipe import DataSection
from jobs.data import picture_views, pictures
from jobs.data.pictures import Pictures
from serving.bundle import image_classes
from serving.bundle.answer import BundleError
from serving.bundle.image_classes import Frame


def encoded(shade: int, size: tuple[int, int] = (10, 8), mode: str = "L", kind: str = "PNG") -> bytes:
    """A picture of one shade, width x height."""
    stream = io.BytesIO()
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 255 - shade)).save(stream, kind)
    return stream.getvalue()


def section(folder: Path, train: list[Any], **columns: list[Any]) -> DataSection:
    """Tables of these training cells, two classes in turn, and of four good test pictures."""
    labels = [("cat", "dog")[row % 2] for row in range(len(train))]
    pq.write_table(pa.table({"image": pa.array(train), "label": labels, **columns}), folder / "train.parquet")
    test = {"image": [encoded(shade) for shade in range(4)], "label": ["cat", "dog"] * 2}
    pq.write_table(pa.table(test), folder / "test.parquet")
    return DataSection.parse(
        {"source": "table", **{name: str(folder / f"{name}.parquet") for name in ("train", "test")}}
    )


def inputs(labelled: Any) -> np.ndarray:
    """Training and validation pictures in the order of their rows."""
    parts = [labelled.splits[name] for name in ("train", "validation")]
    order = np.argsort(np.concatenate([part.numbers for part in parts]))
    return np.stack([one for part in parts for one in part.inputs])[order]


def test_encoded_raw_and_struct_cells_and_paths_give_the_same_pixels(tmp_path: Path) -> None:
    shades = [10, 20, 30, 40, 50, 60]
    files = [encoded(shade) for shade in shades]
    for number, data in enumerate(files):
        (tmp_path / f"{number}.png").write_bytes(data)
    kinds: dict[str, tuple[list[Any], dict[str, list[Any]]]] = {
        "encoded": (files, {}),
        "struct": ([{"bytes": data, "path": None} for data in files], {}),
        "path": ([f"{number}.png" for number in range(6)], {}),
        "raw": (
            [np.full((8, 10, 1), shade, np.uint8).tobytes() for shade in shades],
            {"image_format": [pictures.RAW] * 6, "height": [8] * 6, "width": [10] * 6, "channels": [1] * 6},
        ),
    }
    seen = {}
    for name, (cells, beside) in kinds.items():
        labelled, frame = pictures.rows(section(tmp_path, cells, **beside), Pictures(), 0)
        assert frame == Frame(10, 1)
        assert not labelled.dead
        seen[name] = inputs(labelled)
    assert seen["encoded"].shape == (6, 10, 10, 1)
    assert seen["encoded"][:, 0, 0, 0].tolist() == shades
    assert all(np.array_equal(seen["encoded"], other) for other in seen.values())


def test_bad_cells_are_set_aside_each_with_its_reason(tmp_path: Path) -> None:
    good = [encoded(shade) for shade in range(6)]
    cut = good[0][: len(good[0]) // 2]
    labelled, _ = pictures.rows(section(tmp_path, [*good, None, b"", b"no picture", cut]), Pictures(), 0)
    assert [(one.row, one.reason) for one in labelled.dead] == [
        (6, "null_picture"), (7, "null_picture"), (8, "unreadable_picture"), (9, "unreadable_picture"),
    ]  # fmt: skip
    raw: dict[str, list[Any]] = {
        "image_format": [pictures.RAW] * 7,
        "height": [2] * 7,
        "width": [2] * 7,
        "channels": [1] * 6 + [2],
    }
    cells = [bytes([shade] * 4) for shade in range(5)] + [bytes(3), bytes(8)]
    labelled, frame = pictures.rows(section(tmp_path, cells, **raw), Pictures(), 0)
    assert [one.row for one in labelled.dead] == [5, 6]
    assert frame == Frame(8, 1)


def test_a_column_without_pictures_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no picture"):
        pictures.rows(section(tmp_path, ["so", "many", "words", "here"]), Pictures(), 0)
    with pytest.raises(DataError, match="no column 'photo'"):
        pictures.rows(section(tmp_path, [encoded(1)] * 4), Pictures(image_column="photo"), 0)


def test_size_and_colours_come_from_the_training_pictures_unless_said(tmp_path: Path) -> None:
    cells = [encoded(1, (30, 20)), encoded(2, (30, 20), "RGB", "JPEG"), encoded(3, (12, 12)), encoded(4, (30, 8))]
    given = section(tmp_path, cells)
    assert pictures.rows(given, Pictures(), 0)[1] == Frame(30, 3)
    assert pictures.rows(given, Pictures(size=16, channels=1), 0)[1] == Frame(16, 1)
    large = section(tmp_path, [encoded(shade, (200, 100)) for shade in range(4)])
    assert pictures.rows(large, Pictures(), 0)[1] == Frame(pictures.SIZE_MAX, 1)


def test_the_embedded_digits_have_their_fixed_splits() -> None:
    labelled, frame = pictures.rows(DataSection.parse({"source": "digits"}), Pictures(), 0)
    assert frame == Frame(8, 1)
    assert {name: len(part.inputs) for name, part in labelled.splits.items()} == {
        "train": 1293, "validation": 144, "test": 360,
    }  # fmt: skip
    assert len(labelled.classes) == 10
    numbers = [set(part.numbers.tolist()) for part in labelled.splits.values()]
    assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]


def test_a_decompression_bomb_is_refused_before_it_unfolds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_classes, "PIXELS_MAX", 50)
    with pytest.raises(BundleError, match="10x8 pixels, expected at most 50"):
        image_classes.read(encoded(1), Frame(8, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow's own limit: 80 pixels are more than twice as many
    with pytest.raises(BundleError, match="more than 50 pixels"):
        image_classes.read(encoded(1), Frame(8, 1))


@settings(max_examples=20, deadline=None)
@given(
    shift=st.sampled_from([0.0, 0.1, 0.3]), turn=st.sampled_from([0.0, 20.0]), scale=st.sampled_from([0.0, 0.2]),
    flip=st.booleans(), mixed=st.sampled_from([0.0, 0.5, 1.0]), channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_views_keep_shape_and_range_and_are_the_same_for_the_same_seed(
    shift: float, turn: float, scale: float, flip: bool, mixed: float, channels: int, seed: int
) -> None:
    given = np.random.default_rng(seed).integers(40, 200, (5, 9, 9, channels), dtype=np.uint8)
    params = picture_views.Views(count=2, shift=shift, turn=turn, scale=scale, flip=flip, mixed=mixed)
    first, again = (list(picture_views.views(given, params, seed)) for _ in range(2))
    assert [number for number, _, _ in first] == [1, 2]
    for (_, one, mixed_N), (_, other, _) in zip(first, again, strict=True):
        assert one.shape == given.shape
        assert one.dtype == np.uint8
        assert np.array_equal(one, other)
        assert one.min() >= given.min() - 1  # bilinear and mixed values lie between those there are
        assert one.max() <= given.max() + 1
        assert mixed_N.mean() == mixed or 0 < mixed < 1


def test_a_view_without_any_change_is_the_picture_itself_and_a_move_is_by_whole_pixels() -> None:
    given = np.random.default_rng(0).integers(0, 255, (40, 10, 10, 1), dtype=np.uint8)
    still = picture_views.Views(count=1, shift=0.0)
    ((_, seen, mixed_N),) = picture_views.views(given, still, 0)
    assert np.array_equal(seen, given)
    assert not mixed_N.any()
    ((_, seen, _),) = picture_views.views(given, picture_views.Views(count=1, shift=0.2), 0)
    assert set(np.unique(seen)) <= set(np.unique(given))
    moved = [np.array_equal(seen[row, 2:-2, 2:-2], given[row, 2 + dy : 8 + dy, 2 + dx : 8 + dx])
             for row in range(40) for dy in range(-2, 3) for dx in range(-2, 3)]  # fmt: skip
    assert sum(moved) == 40
    flipped = picture_views.Views(count=1, shift=0.0, flip=True)
    ((_, seen, _),) = picture_views.views(given, flipped, 0)
    either = [np.array_equal(a, b) or np.array_equal(a, b[:, ::-1]) for a, b in zip(seen, given, strict=True)]
    assert all(either)
    assert 5 < sum(np.array_equal(a, b) for a, b in zip(seen, given, strict=True)) < 35

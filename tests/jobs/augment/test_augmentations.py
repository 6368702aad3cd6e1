"""Every kind of edge noise is seeded, keeps shape and type, is as strong as it says, and names its parent rows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cluster import schema
from cluster.errors import RecipeError
from cluster.recipe import Term
from jobs.data import augment
from jobs.data.augment import AUGMENTATIONS, COLUMNS, gaussian_noise, time_jitter, typos
from serving.bundle.sounds import wav

LISTS = {"lists": {"city": ["Rome", "New York", "Ulm"], "brand": ["visa", "amex"]}}
TOLD: dict[str, dict[str, Any]] = {"entity_replacement": LISTS, "time_jitter": {"share": 0.5}}
PARAMS: dict[str, dict[str, Any]] = {name: TOLD.get(name, {}) for name in AUGMENTATIONS}
FSDD = Path(__file__).resolve().parents[4] / "shared/data/audio/fsdd_test.parquet"

unhurried = settings(deadline=None, max_examples=50)  # other work on the same cores is no failure
each_kind = pytest.mark.parametrize("name", AUGMENTATIONS)
pixels = st.one_of(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
)
frames = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
VALUES = {
    "image": pixels,
    "clip": arrays.arrays(np.uint8, frames | frames.map(lambda shape: (*shape, 3))),
    "audio": arrays.arrays(np.int16, st.integers(1, 300)),
    "text": st.text(max_size=60) | st.lists(st.sampled_from(["Rome", "new york", "amex", "I", "lost"])).map(" ".join),
}


def requests(count: int = 4, **columns: Any) -> pa.Table:
    """Rows with a text, a picture and a label each, and one view that was there before."""
    rows = [
        {
            "sample_id": f"{row:016x}", "split": "train", "slice": "all", "prompt": f"lost my amex in Rome {row}",
            "images": [png(np.full((9, 7), 40 * row + 20, np.uint8))], "image_format": "png", "label": row % 2,
            "frames": [png(np.full((9, 7), 20 * place + 30, np.uint8)) for place in range(8)], "fps": 2.0,
            "label_name": "ab"[row % 2], "seed_row": row, "view": 0, "draw": 0, "temperature": 0.0, "seed": 1,
        }
        for row in range(count)
    ]  # fmt: skip
    rows.append(rows[0] | {"sample_id": "f" * 16, "parent": rows[0]["sample_id"], "view": 3, "template": "dropped"})
    return schema.conform(pa.Table.from_pylist(rows, schema.schema("requests")), "requests")


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def run(name: str, value: Any, seed: int) -> Any:
    kind = AUGMENTATIONS[name]
    return kind.function(value, kind.params.parse(PARAMS[name]), np.random.default_rng(seed))


@each_kind
@unhurried
@given(data=st.data(), seed=st.integers(0, 2**63))
def test_the_same_seed_gives_the_same_output_of_the_same_shape_and_type(
    name: str, data: st.DataObject, seed: int
) -> None:
    value = data.draw(VALUES[AUGMENTATIONS[name].medium])
    before = value.copy() if isinstance(value, np.ndarray) else value
    once, again = run(name, value, seed), run(name, value, seed)
    assert type(once) is type(value)
    assert np.array_equal(once, again)
    assert np.array_equal(value, before), "the input is left as it was"
    if isinstance(value, np.ndarray):
        assert (once.shape, once.dtype) == (value.shape, value.dtype)


@each_kind
def test_another_seed_gives_another_output(name: str) -> None:
    rng = np.random.default_rng(0)
    value = {
        "image": rng.integers(60, 200, (16, 16), dtype=np.uint8),
        "clip": rng.integers(60, 200, (8, 16, 16), dtype=np.uint8),
        "audio": rng.integers(-9000, 9000, 400).astype(np.int16),
        "text": "I lost my amex in Rome and my visa in Ulm on the way to New York",
    }[AUGMENTATIONS[name].medium]
    assert len({repr(run(name, value, seed)) for seed in range(12)}) > 1
    assert any(not np.array_equal(run(name, value, seed), value) for seed in range(12))


@unhurried
@given(sigma=st.floats(0.01, 0.1), seed=st.integers(0, 1000))
def test_gaussian_noise_has_the_sigma_it_was_told(sigma: float, seed: int) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = gaussian_noise.gaussian_noise(grey, gaussian_noise.Params(sigma=sigma), np.random.default_rng(seed))
    difference = (noisy.astype(float) - 128) / 255
    assert np.std(difference) == pytest.approx(sigma, rel=0.05)
    assert abs(np.mean(difference)) < 5 * sigma / np.sqrt(grey.size) + 1e-3


def test_gaussian_noise_is_five_percent_of_the_full_range_by_default() -> None:
    assert gaussian_noise.Params().sigma == 0.05


@unhurried
@given(snr_db=st.floats(0, 30), seed=st.integers(0, 1000))
def test_audio_noise_has_the_signal_to_noise_ratio_it_was_told(snr_db: float, seed: int) -> None:
    tone = (9000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)
    kind = AUGMENTATIONS["audio_noise"]
    noise = kind.function(tone, kind.params.parse({"snr_db": snr_db}), np.random.default_rng(seed)) - tone.astype(float)
    realised = 10 * np.log10(np.mean(tone.astype(float) ** 2) / np.mean(noise**2))
    assert realised == pytest.approx(snr_db, abs=0.5)


@unhurried
@given(share=st.floats(0.02, 0.6), seed=st.integers(0, 1000))
def test_an_occlusion_covers_the_area_it_was_told(share: float, seed: int) -> None:
    kind = AUGMENTATIONS["occlusion"]
    covered = kind.function(
        np.full((40, 60), 200, np.uint8), kind.params.parse({"share": share}), np.random.default_rng(seed)
    )
    assert np.mean(covered == 0) == pytest.approx(share, rel=0.25)


def test_a_rectangle_in_front_of_a_clip_stays_where_it_is_and_light_changes_in_all_frames_alike() -> None:
    clip = np.full((5, 20, 20, 3), 100, np.uint8)
    covered = run("clip_occlusion", clip, 3) == 0
    assert (covered == covered[:1]).all() and 0.05 < covered.mean() < 0.15
    assert len(np.unique(run("clip_brightness", clip, 3))) == 1
    noise = run("clip_noise", clip, 3)
    assert not np.array_equal(noise[0], noise[1])


@unhurried
@given(share=st.floats(0.01, 0.5), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_jitter_shows_frames_in_their_order_none_further_from_its_time_than_it_was_told(
    share: float, count: int, seed: int
) -> None:
    clip = np.arange(count, dtype=np.uint8)[:, None, None]
    order = time_jitter.time_jitter(clip, time_jitter.Params(share=share), np.random.default_rng(seed)).ravel()
    assert (np.diff(order.astype(int)) >= 0).all()
    assert np.abs(order.astype(int) - np.arange(count)).max() <= share * count + 0.5


def test_a_time_shift_moves_the_recording_and_fills_with_silence() -> None:
    ramp = np.arange(1, 101, dtype=np.int16)
    for seed in range(20):
        moved = run("time_shift", ramp, seed)
        kept = moved[moved != 0]
        assert len(kept) >= 90
        assert set(np.diff(kept).tolist()) == {1}


def test_silence_stays_silence() -> None:
    assert not run("audio_noise", np.zeros(50, np.int16), 0).any()


@unhurried
@given(text=st.text(alphabet="abcXYZ ,1é", min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_a_typo_is_a_key_beside_the_right_one_and_keeps_its_case(text: str, seed: int) -> None:
    made = run("typos", text, seed)
    assert len(made) == len(text)
    for given_letter, letter in zip(text, made, strict=True):
        if letter != given_letter:
            assert letter.lower() in typos.NEIGHBOURS[given_letter.lower()]
            assert letter.isupper() == given_letter.isupper()
    assert (made != text) == any(letter.lower() in typos.NEIGHBOURS for letter in text)


def test_an_entity_becomes_another_of_its_list_the_same_everywhere_in_a_text() -> None:
    made = run("entity_replacement", "From rome to New York, then Rome. Romeo stays.", 3)
    first = made.split()[1]
    assert first in {"New", "Ulm"}
    assert made.count(first) >= 2
    assert made.endswith("Romeo stays.")
    assert "rome to" not in made


@pytest.mark.parametrize("name", [name for name, kind in AUGMENTATIONS.items() if kind.medium != "audio"])
@pytest.mark.parametrize("labels", ["inherit", "teacher"])
def test_new_requests_name_their_parent_their_kind_and_their_view(name: str, labels: str) -> None:
    given_rows = requests()
    term = Term(name=name, params={**PARAMS[name], "views": 2, "labels": labels})
    made = augment.augmented(given_rows, [term], seed=5)
    schema.check(made, "requests")
    rows, parents = made.to_pylist(), {row["sample_id"]: row for row in given_rows.to_pylist()}
    assert len(rows) == 8, "two views of each of the four rows, none of what is a view itself"
    assert {row["view"] for row in rows} == {4, 5}
    assert len({row["sample_id"] for row in rows} | set(parents)) == 8 + 5
    for row in rows:
        parent = parents[row["parent"]]
        assert row["template"] == name
        assert [row[key] for key in ("split", "slice", "seed_row", "seed")] == [
            parent[key] for key in ("split", "slice", "seed_row", "seed")
        ]
        assert row["label_name"] == (parent["label_name"] if labels == "inherit" else None)
        assert row["label"] == (parent["label"] if labels == "inherit" else None)
        changed = COLUMNS[AUGMENTATIONS[name].medium]
        others = {"prompt", "images", "frames", "fps"} - {changed}
        assert all(row[column] == parent[column] for column in others)


def test_a_row_has_the_same_views_whatever_other_rows_there_are() -> None:
    terms = [Term(name="typos"), Term(name="gaussian_noise")]
    few, many = (augment.augmented(requests(count), terms, 0).to_pylist() for count in (2, 6))
    by_id = {row["sample_id"]: row for row in many}
    assert few == [by_id[row["sample_id"]] for row in few]
    other_seed = augment.augmented(requests(2), terms, 1)
    assert not set(other_seed["sample_id"].to_pylist()) & set(by_id)


def test_a_text_without_an_entity_gives_no_view() -> None:
    none = requests().set_column(4, schema.schema("requests").field("prompt"), pa.array(["nothing here"] * 5))
    made = augment.augmented(none, [Term(name="entity_replacement", params=LISTS)], 0)
    assert len(made) == 0
    assert made.schema == none.schema


def test_a_picture_that_noise_leaves_as_it_was_gives_no_view() -> None:
    black = requests(1).to_pylist()[0] | {"images": [png(np.zeros((9, 7), np.uint8))]}
    table = pa.Table.from_pylist([black], schema.schema("requests"))
    assert len(augment.augmented(table, [Term(name="occlusion"), Term(name="brightness")], 0)) == 0


def test_a_noisy_picture_decodes_to_the_shape_it_had_and_a_jpeg_becomes_a_png() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (11, 13, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "JPEG")
    rows = requests(1).to_pylist()[:1]
    table = pa.Table.from_pylist(
        [rows[0] | {"images": [stream.getvalue(), png(colour)], "image_format": "jpeg"}], schema.schema("requests")
    )
    made = augment.augmented(table, [Term(name="gaussian_noise")], 0).to_pylist()[0]
    assert made["image_format"] == "png"
    assert [augment.decoded(one).shape for one in made["images"]] == [(11, 13, 3)] * 2


def test_recordings_are_augmented_where_the_requests_have_them() -> None:
    if not FSDD.is_file():
        pytest.skip(f"no {FSDD}")
    spoken = pq.read_table(FSDD, columns=["audio"])["audio"].slice(0, 5)
    made_of = pa.array([wav(one.values.to_numpy(), 8000) for one in spoken])
    table = requests()
    table = table.set_column(table.schema.get_field_index("audio"), table.schema.field("audio"), made_of)
    made = augment.augmented(table, [Term(name="audio_noise"), Term(name="time_shift", params={"share": 0.5})], 0)
    lengths = {row["sample_id"]: len(row["audio"]) for row in table.to_pylist()}
    assert len(made) >= 7
    assert all(len(row["audio"]) == lengths[row["parent"]] for row in made.to_pylist())


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term(name="typo"), "unknown augmentation"),
        (Term(name="gaussian_noise", params={"sigma": 2.0}), r"generate\.augment\.0\.params\.sigma"),
        (Term(name="audio_noise"), "does not fit the task"),
    ],
)
def test_terms_that_cannot_work_are_refused_by_name(term: Term, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        augment.check([term], ["image", "text"])


def test_a_row_of_two_slices_has_the_same_view_once() -> None:
    terms = [
        Term(name="words", params={"views": 2, "where": where})
        for where in ({"label_name": ["b"]}, {"label_name": ["a", "b"]})
    ]
    made, whole = (augment.augmented(requests(6), own, seed=3) for own in (terms, terms[1:]))
    assert len(set(made["sample_id"].to_pylist())) == len(made) == len(whole)


def test_a_kind_can_be_kept_to_a_slice_and_its_views_stay_the_same() -> None:
    every = [Term(name="words", params={"views": 2})]
    slice_ = [Term(name="words", params={"views": 2, "where": {"label_name": ["b"], "phrases": ["in rome"]}})]
    table = requests(6)
    everywhere, only = (augment.augmented(table, terms, seed=3).to_pylist() for terms in (every, slice_))
    parents = {row["sample_id"] for row in table.to_pylist() if row["label_name"] == "b" and not row["parent"]}
    assert {row["parent"] for row in only} == parents
    assert only == [row for row in everywhere if row["parent"] in parents]
    lengths = {"where": {"words_min": 99}}
    assert not len(augment.augmented(table, [Term(name="words", params=lengths)], seed=3))
    with pytest.raises(RecipeError, match="at least one of"):
        augment.check([Term(name="words", params={"where": {}})], ["text"])

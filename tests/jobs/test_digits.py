"""The default recipe's data: real digits, right answers, splits that do not touch, views that stay recognisable."""

from collections.abc import Callable

import numpy as np
import pytest

from cluster.recipe import Recipe
from jobs import tasks
from jobs.data import digits
from serving.bundle import pictures


@pytest.fixture(scope="module")
def source() -> digits.Pictures:
    return digits.pictures()


def test_the_splits_are_all_pictures_and_share_none(source: digits.Pictures) -> None:
    parts = [source.splits[name] for name in digits.SPLITS]
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert sorted(np.concatenate(parts)) == list(range(1797))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_answer_follows_from_the_true_digits(source: digits.Pictures, split: str) -> None:
    drawn = digits.draw(source, split, 400, seed=3)
    pool = set(source.splits[split].tolist())
    numbers = {word: value for value, word in enumerate(digits.WORDS)}
    for row in range(400):
        a, b = int(source.digits[drawn.first[row]]), int(source.digits[drawn.second[row]])
        assert drawn.first[row] in pool and (drawn.second[row] in pool or drawn.second[row] == -1)
        words = [numbers[w] for w in drawn.prompt[row].split() if w in numbers]
        n, even = words[0] if words else 0, {0, 2, 4, 6, 8}
        expected = {
            "digit": digits.spell(a), "even": "yes" if a in even else "no", "odd": "no" if a in even else "yes",
            "greater": "yes" if a > n else "no", "plus": digits.spell(a + n), "times": digits.spell(a + a),
            "after": digits.spell((a + 1) % 10), "sum": digits.spell(a + b), "same": "yes" if a == b else "no",
            "larger": "equal" if a == b else digits.spell(max(a, b)),
        }[drawn.slice[row]]  # fmt: skip
        assert drawn.answer[row] == expected


def test_a_questions_pictures_are_all_labelled_or_all_not_and_the_teacher_is_fitted_on_labelled_ones() -> None:
    source = digits.pictures(labelled_share=0.3)
    labelled = set(source.splits["labelled"].tolist())
    assert len(labelled) == round(0.3 * 1293)
    assert labelled < set(source.splits["train"].tolist())
    drawn = digits.draw(source, "train", 600, seed=3, two_share=0.5)
    pairs = [(a in labelled, b in labelled) for a, b in zip(drawn.first, drawn.second, strict=True) if b >= 0]
    assert {a == b for a, b in pairs} == {True}
    assert 0.2 < np.mean([a for a, _ in pairs]) < 0.4
    fitted = digits.draw(source, "labelled", 600, seed=3, two_share=0.5)
    assert set(fitted.first.tolist()) | set(fitted.second.tolist()) - {-1} <= labelled


def test_a_request_about_an_unlabelled_picture_has_no_true_label(tiny_digits: Callable[..., Recipe]) -> None:
    known = {}
    for share in (0.5, 1.0):
        task = tasks.of(tiny_digits(f"data.params.labelled_share={share}"))
        known[share] = [label is not None for label in task.requests("train")["label_name"].to_pylist()]
        assert None not in task.requests("test")["label_name"].to_pylist()
    assert all(known[1.0])
    assert 0.2 < np.mean(known[0.5]) < 0.8


def test_numbers_are_spelled_digit_by_digit() -> None:
    assert (digits.spell(7), digits.spell(16)) == ("seven", "one six")


def test_views_without_motion_are_the_picture_itself(source: digits.Pictures) -> None:
    pixels = source.pixels[:50]
    np.testing.assert_array_equal(digits.views(pixels, np.random.default_rng(0), 0.0, 0.0, 0.0), pixels)


def test_a_view_moves_the_picture_and_keeps_its_ink(source: digits.Pictures) -> None:
    pixels = source.pixels[:200]
    seen = digits.views(pixels, np.random.default_rng(0), 0.12, 10.0, 0.0)
    assert (seen != pixels).any(axis=(1, 2)).mean() > 0.99
    assert seen.sum() == pytest.approx(pixels.sum(), rel=0.05)


def test_requests_have_their_own_ids_and_are_the_same_every_time(tiny_digits: Callable[..., Recipe]) -> None:
    task = tasks.of(tiny_digits())
    first, again = task.requests("train"), task.requests("train")
    assert first.equals(again)
    assert len(set(first["sample_id"].to_pylist())) == first.num_rows
    assert not set(first["sample_id"].to_pylist()) & set(task.requests("test")["sample_id"].to_pylist())


def test_more_samples_begin_with_the_fewer_ones(tiny_digits: Callable[..., Recipe]) -> None:
    few, more = (tasks.of(tiny_digits(f"generate.samples={count}")).requests("train") for count in (1100, 2050))
    assert few.equals(more.slice(0, 1100))


def test_a_packed_batch_scores_exactly_the_answer_tokens(tiny_digits: Callable[..., Recipe]) -> None:
    task = tasks.of(tiny_digits())
    samples = task.requests("validation")
    columns = task.pack(samples, None, true_labels=True)
    rows = np.arange(10)
    batch = task.batch(columns, rows)
    answers = [columns["ids"][r, columns["prompt"][r] : columns["prompt"][r] + columns["answer"][r]] for r in rows]
    assert batch["targets"].tolist() == np.concatenate(answers).tolist()
    assert len(batch["targets"]) == task.positions(columns, rows)
    assert len(batch["pixels"]) == sum(len(images) for images in samples["images"].to_pylist()[:10])


def test_a_picture_survives_packing_pixel_by_pixel(tiny_digits: Callable[..., Recipe], source: digits.Pictures) -> None:
    task = tasks.of(tiny_digits())
    samples = task.requests("test")
    columns = task.pack(samples, None, true_labels=True)
    picture = pictures.Picture(size=8, patch=4, merge=2)
    first = source.pixels[samples["seed_row"][0].as_py()]
    np.testing.assert_array_equal(
        columns["patches"][0, 0], pictures.patchify(np.repeat(first[..., None], 3, -1), picture)
    )


def test_the_tokenizer_gives_every_answer_back_word_by_word(tiny_digits: Callable[..., Recipe]) -> None:
    tokenizer = tasks.of(tiny_digits()).tokenizer
    for text in ("one six", "yes", "equal", "zero"):
        assert tokenizer.decode([*tokenizer.encode(text).ids, 1]) == text

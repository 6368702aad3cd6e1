"""Clips of moving digits: answers follow from what is shown, splits share no scan, and one frame does not tell."""

from collections import Counter

import numpy as np
import pytest

from jobs.data import digits, moving_digits
from jobs.data.digits import PIXELS, WORDS
from jobs.data.moving_digits import DIRECTIONS, SIDE, Clip

FRAMES = 6


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Clip]]:
    source = digits.pictures()
    return {split: moving_digits.draw(source, split, 800, FRAMES, seed=len(split)) for split in ("train", "test")}


def way(clip: Clip) -> str:
    """The direction between the first two frames."""
    (_, top, left), (_, below, beside) = clip.shown[:2]
    moved = [
        int(np.sign((now - before + SIDE // 2) % SIDE - SIDE // 2)) for before, now in ((top, below), (left, beside))
    ]
    return next(name for name, step in DIRECTIONS.items() if step == tuple(moved))


def scan_and_rest(frame: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """The scan at its place (edges are joined), and what else there is."""
    home = np.roll(frame, (-top, -left), (0, 1))
    scan = home[:PIXELS, :PIXELS].copy()
    home[:PIXELS, :PIXELS] = 0
    return scan, home


def truth(clip: Clip) -> str:
    order = [digit for digit, _, _ in clip.shown]
    named = [WORDS.index(word) for word in clip.text.split() if word in WORDS]
    if clip.slice == "count":
        return WORDS[order.count(named[0])]
    if clip.slice == "after":
        return WORDS[next(digit for digit in order[order.index(named[0]) :] if digit != named[0])]
    if clip.slice == "before":
        return "yes" if order.index(named[0]) < order.index(named[1]) else "no"
    if clip.slice in ("direction", "moved"):
        own = way(clip)
        return own if clip.slice == "direction" else ("yes" if own in clip.text.split() else "no")
    return WORDS[order[-1] if clip.slice == "last" else order[0]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_follows_from_what_the_frames_show(drawn: dict[str, list[Clip]], split: str) -> None:
    for clip in drawn[split]:
        assert clip.answer == truth(clip)
        for frame, (_, top, left) in zip(clip.frames, clip.shown, strict=True):
            assert frame.any()
            assert not scan_and_rest(frame, top, left)[1].any()


def test_frames_show_scans_of_their_own_split_only(drawn: dict[str, list[Clip]]) -> None:
    source = digits.pictures()
    own = {source.pixels[number].tobytes() for number in source.splits["test"]}
    for clip in drawn["test"]:
        for frame, (_, top, left) in zip(clip.frames, clip.shown, strict=True):
            assert scan_and_rest(frame, top, left)[0].tobytes() in own


def test_kinds_come_in_equal_parts_and_answers_are_balanced(drawn: dict[str, list[Clip]]) -> None:
    assert set(Counter(clip.slice for clip in drawn["train"]).values()) == {100}
    for name in ("moved", "before"):
        answers = Counter(clip.answer for clip in drawn["train"] if clip.slice == name)
        assert 0.35 < answers["yes"] / answers.total() < 0.65


def test_no_single_frame_tells_the_order_or_the_way(drawn: dict[str, list[Clip]]) -> None:
    ceilings = moving_digits.single_frame(drawn["train"], drawn["test"])
    assert ceilings["digit"] == ceilings["first"] == ceilings["last"] == 1.0  # a frame of the right number tells these
    for name, most in (("direction", 0.5), ("moved", 0.7), ("before", 0.85), ("after", 0.6), ("count", 0.6)):
        assert ceilings[name] < most, name
    assert set(ceilings) - set(moving_digits.MANY_FRAMES) == {"digit", "first", "last"}


def test_the_bank_is_the_same_every_time_and_splits_keep_their_frames() -> None:
    params = moving_digits.Clips(train=40, validation=20, test=20)
    one, other = moving_digits.bank(params), moving_digits.bank(params)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.pixels.shape == (80 * FRAMES, SIDE, SIDE, 3)
    assert one.splits["test"].texts == other.splits["test"].texts
    places = [place for split in one.splits.values() for frames in split.frames for place in frames]
    assert sorted(places) == list(range(80 * FRAMES))

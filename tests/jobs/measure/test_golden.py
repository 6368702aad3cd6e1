"""Golden samples: the same rows whoever asks, from every slice, and agreement that notices one changed answer."""

import numpy as np

from jobs.measure import golden
from jobs.measure.exam import Exam


def rows(count: int) -> Exam:
    slices = ["rare" if number % 10 == 0 else "common" for number in range(count)]
    items = [{"text": f"row {number}", "images": []} for number in range(count)]
    ids = [f"{number:04}" for number in range(count)]
    return Exam(ids, items, ids, slices, {"odd": np.arange(count) % 2 == 1})


def test_the_same_seed_chooses_the_same_rows_from_every_slice_in_turn() -> None:
    chosen = golden.chosen(rows(100), 12, 0)
    assert len(chosen) == 12 and chosen.slices.count("rare") == 6
    assert chosen.ids == golden.chosen(rows(100), 12, 0).ids != golden.chosen(rows(100), 12, 1).ids
    assert chosen.ids == sorted(chosen.ids) and chosen.groups["odd"].tolist() == [
        int(key) % 2 == 1 for key in chosen.ids
    ]


def test_fewer_rows_than_asked_are_all_of_them() -> None:
    assert golden.chosen(rows(5), 12, 0).ids == rows(5).ids


def test_one_changed_answer_of_ten_is_noticed_and_kept() -> None:
    ten = rows(10)
    answers = {"student": list(ten.truth), "student_int8": [*ten.truth[:9], "another"]}
    told = golden.measure(ten.truth, answers)
    assert told == {"with_float": 0.9, "with_champion": None, "right": 0.9}
    assert golden.measure(ten.truth, answers | {"champion": answers["student_int8"]})["with_champion"] == 1.0
    table = golden.table(ten, answers)
    assert table.column_names == ["sample_id", "text", "slice", "truth", "student", "student_int8"]
    assert table["student_int8"].to_pylist()[-1] == "another"

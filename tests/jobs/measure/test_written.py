"""Written texts: BLEU as sacrebleu counts it, and what a model that continues texts is asked."""

import pytest
import sacrebleu

from jobs.measure import written
from jobs.measure.exam import Exam

TEXTS = ["the cat sat on the mat", "a dog ran to the red house", "one"]
ROWS = Exam(["0", "1", "2"], [{"text": f"q {n}", "images": []} for n in range(3)], TEXTS, ["all"] * 3, {})


def test_the_score_is_sacrebleus_and_exact_match_counts_whole_texts() -> None:
    own = ["the cat sat on a mat", "a dog ran to the red house", "one"]
    told = written.scores(own, TEXTS, continues=False)
    assert told["bleu"] == pytest.approx(sacrebleu.corpus_bleu(own, [TEXTS]).score / 100, abs=1e-6)
    assert told["exact_match"] == pytest.approx(2 / 3)


def test_a_model_that_continues_gets_half_a_text_and_is_held_to_what_it_had_room_for() -> None:
    items, rest = written.exercise(ROWS, continues=True, count=8)
    assert items == [{"text": "the cat sat"}, {"text": "a dog ran"}]
    assert [one.split() for one in rest] == [["on", "the", "mat"], ["to", "the", "red", "house"]]
    assert written.scores([" on the", " to the red"], rest, continues=True) == pytest.approx(
        {"bleu": 1.0, "exact_match": 1.0}
    )
    assert written.scores(["", ""], rest, continues=True)["exact_match"] == 0.0


def test_a_model_that_answers_gets_the_question() -> None:
    items, truth = written.exercise(ROWS, continues=False, count=2)
    assert [one["text"] for one in items] == ["q 0", "q 1"] and truth == TEXTS[:2]

"""Words become labels: what an answer names, how sure it is, and what is set aside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cluster.errors import RecipeError
from serving.bundle.answer import BundleError
from serving.teachers import Failure, Reply, TopLogprobs
from serving.teachers.labelling import LabellingTeacher, template

LABELS = ["card_arrival", "card_not_working", "Exchange rate"]


class Says:
    """A teacher that says what the text asks it to; prompts are kept."""

    vocabulary = None

    def __init__(self, *replies: Reply | Failure) -> None:
        self.replies, self.asked = list(replies), list[str]()

    def prompt(self, item: dict[str, Any]) -> str:
        self.asked.append(item["text"])
        return str(item["text"])

    def complete(self, prompts: Sequence[str], temperature: float = 0.0, seeds: Any = None) -> list[Reply | Failure]:
        return self.replies[: len(prompts)]

    def answer(self, items: Any) -> Any:
        raise NotImplementedError


def said(text: str, confidence: float | None = None, top: TopLogprobs | None = None) -> Reply | Failure:
    teacher = LabellingTeacher(Says(Reply(text, confidence, top=top)), LABELS)
    return teacher.complete([teacher.prompt({"text": "Where is it?"})])[0]


@pytest.mark.parametrize(
    ("answer", "label"),
    [("card_arrival", 0), ("  Card Arrival.\n", 0), ('"exchange rate"', 2), ("The label is **card-not-working**.", 1),
     ("EXCHANGE_RATE", 2)],
)  # fmt: skip
def test_an_answer_is_the_label_that_it_names(answer: str, label: int) -> None:
    reply = said(answer)
    assert isinstance(reply, Reply) and reply.logits is not None and reply.tokens is not None
    assert (reply.text, reply.tokens.tolist(), reply.logits.shape) == (LABELS[label], [label], (1, 3))
    assert int(reply.logits[0].argmax()) == label


@pytest.mark.parametrize("answer", ["", "a refund", "card_arrival or exchange rate", "discard arrivals"])
def test_an_answer_that_names_no_label_or_two_is_set_aside(answer: str) -> None:
    reply = said(answer)
    assert isinstance(reply, Failure) and reply.reason == "no_label" and repr(answer) in reply.detail


def test_a_label_inside_a_longer_one_is_no_second_label() -> None:
    teacher = LabellingTeacher(Says(Reply("it is: card not working abroad", None)), ["card", "card not working abroad"])
    (reply,) = teacher.complete([teacher.prompt({"text": "x"})])
    assert reply.text == "card not working abroad"  # type: ignore[union-attr]


@pytest.mark.parametrize(("told", "expected"), [(None, 0.95), (0.7, 0.7), (1.0, 0.999), (0.01, 1 / 3)])
def test_without_alternatives_the_label_has_the_told_confidence(told: float | None, expected: float) -> None:
    reply = said("card_arrival", told)
    assert isinstance(reply, Reply) and reply.logits is not None
    p_C = np.exp(reply.logits[0].astype(np.float64))
    assert p_C.sum() == pytest.approx(1, abs=1e-6)
    share = expected + (1 - expected) / 3
    assert reply.confidence == pytest.approx(share, abs=2e-3) and p_C[1] == pytest.approx(p_C[2])


def test_first_tokens_that_begin_one_label_only_share_out_the_mass() -> None:
    def first(*pairs: tuple[str, float]) -> TopLogprobs:
        logprobs = np.log(np.array([share for _, share in pairs], np.float32))
        return TopLogprobs(logprobs[:1], np.array([len(pairs)]), logprobs, tuple(word for word, _ in pairs))

    reply = said("Exchange rate", 0.8, first(("Ex", 0.6), ("card_a", 0.3), ("card", 0.06), (" the", 0.04)))
    assert isinstance(reply, Reply) and reply.logits is not None
    np.testing.assert_allclose(np.exp(reply.logits[0]), [0.333, 0.033, 0.633], atol=2e-3)
    shared = said("card_arrival", 0.8, first(("card", 0.9), ("Ex", 0.1)))  # "card" begins two labels
    assert isinstance(shared, Reply) and shared.confidence == pytest.approx(0.8 + 0.2 / 3, abs=2e-3)


def test_the_question_holds_text_and_labels_and_failures_pass_through() -> None:
    failure = Failure("http_500", "no", 3)
    inner = Says(failure)
    teacher = LabellingTeacher(inner, LABELS)
    assert teacher.complete([teacher.prompt({"text": "{{ 7 * 7 }}"})]) == [failure]
    assert "{{ 7 * 7 }}" in inner.asked[0] and "card_arrival, card_not_working, Exchange rate" in inner.asked[0]
    with pytest.raises(BundleError, match="empty"):
        teacher.prompt({"text": "  "})


@pytest.mark.parametrize(
    ("question", "got"),
    [("{{ text", "end of"), ("which one?", "does not ask about text"), ("{{ text }} {{ secret }}", "secret")],
)
def test_a_question_that_cannot_be_asked_is_refused(question: str, got: str) -> None:
    with pytest.raises(RecipeError, match=got.replace("{", r"\{")):
        template(question)


def test_the_sandbox_holds() -> None:
    with pytest.raises(RecipeError, match="unsafe"):
        template("{{ text }} {{ labels.__class__.__mro__ }}")

"""A teacher that writes, asked for a label: its words become one of the classes with a probability for each.

The question is a sandboxed Jinja2 template over `text` and `labels`. Where the endpoint tells log-probabilities, the
likeliest first tokens that begin one label only share out the mass; else the label has the teacher's confidence.

Shape legend: C classes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import sandbox
from serving.bundle import answer, predict
from serving.bundle.answer import Answer
from serving.teachers.replies import Array, Failure, Reply, TeacherFailed, TopLogprobs

if TYPE_CHECKING:
    from serving.teachers import Teacher

QUESTION = (
    "Which label fits the text best?\n"
    "Labels: {{ labels | join(', ') }}\n"
    "Text: {{ text }}\n"
    "Answer with one of the labels and nothing else."
)
SURE, UNTOLD = 0.999, 0.95  # no label is ever certain; what a label without a told probability has
EDGES = " \t\r\n\"'`.,:;!*()[]{}"


class LabellingTeacher:
    """`inner` answers in words; here the words become one of `labels`, and every reply has dense logits [1, C]."""

    def __init__(self, inner: Teacher, labels: Sequence[str], question: str = QUESTION) -> None:
        self.inner, self.labels = inner, list(labels)
        self.question = template(question)
        self._place = {_plain(label): place for place, label in enumerate(self.labels)}

    @property
    def vocabulary(self) -> Sequence[str]:
        """The labels."""
        return self.labels

    def prompt(self, item: Mapping[str, Any]) -> Any:
        """See `Teacher.prompt`. Raises BundleError for an empty text."""
        text = item.get("text")
        if not isinstance(text, str) or not text.strip():
            raise predict.BundleError("text: empty or missing")
        return self.inner.prompt({**item, "text": self.question.render(text=text, labels=self.labels)})

    def complete(
        self, prompts: Sequence[Any], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[Reply | Failure]:
        """See `Teacher.complete`; a reply that names none of the labels, or two, is a Failure "no_label"."""
        return [self._labelled(reply) for reply in self.inner.complete(prompts, temperature, seeds)]

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in order, with the probability of every label. Raises as `Teacher.answer`."""
        found = []
        for reply in self.complete([self.prompt(item) for item in items]):
            if isinstance(reply, Failure):
                raise TeacherFailed(reply)
            assert reply.logits is not None
            found.append(answer.named(answer.softmax(reply.logits[0]), self.labels))
        return found

    def _labelled(self, reply: Reply | Failure) -> Reply | Failure:
        if isinstance(reply, Failure):
            return reply
        place = self._named(reply.text)
        if place is None:
            detail = f"the answer names none of the {len(self.labels)} labels, or several: {reply.text[:200]!r}"
            return Failure("no_label", detail, reply.attempts, reply.usage)
        p_C = self._probabilities(place, reply)
        return Reply(
            self.labels[place], float(p_C[place]), np.array([place]), np.log(p_C, dtype=np.float32)[None],
            usage=reply.usage, attempts=reply.attempts,
        )  # fmt: skip

    def _named(self, answer: str) -> int | None:
        """The label that an answer is, or the only one whose words stand in it."""
        said = _plain(answer)
        if said in self._place:
            return self._place[said]
        inside = [
            label for label in self._place if label and re.search(rf"(?<!\w){re.escape(label)}(?!\w)", said) is not None
        ]
        longest = max(inside, key=len, default="")
        # "card not working" is no second label beside "card not working abroad"
        return self._place[longest] if longest and all(label in longest for label in inside) else None

    def _probabilities(self, place: int, reply: Reply) -> Array:
        """float64 [C], positive, sums to 1, largest at `place`."""
        count = len(self.labels)
        mass_C = np.zeros(count) if reply.top is None else self._first_tokens(reply.top)
        told = UNTOLD if reply.confidence is None else reply.confidence
        if mass_C[place] <= 0:  # one token may begin several labels: then the whole answer's confidence counts
            mass_C = np.zeros(count)
            mass_C[place] = min(max(told, 1 / count), SURE)
        mass_C += max(0.0, 1 - mass_C.sum()) / count + (1 - SURE) / count
        best = int(mass_C.argmax())
        mass_C[[place, best]] = mass_C[[best, place]]  # sampled above greedy: the answer stays the answer
        share_C: Array = mass_C / mass_C.sum()
        return share_C

    def _first_tokens(self, top: TopLogprobs) -> Array:
        """Probability [C] that the alternatives of the first position give to labels that only they begin."""
        mass_C = np.zeros(len(self.labels))
        for word, logprob in zip(top.words[: int(top.counts[0])], top.logprobs, strict=False):
            begun = [place for label, place in self._place.items() if _plain(word) and label.startswith(_plain(word))]
            if len(begun) == 1:
                mass_C[begun[0]] += float(np.exp(logprob))
        share_C: Array = mass_C / max(1.0, float(mass_C.sum()))
        return share_C


@functools.cache
def template(question: str) -> Any:
    """The question as a sandboxed template. Raises RecipeError where it is none, or does not ask about `text`."""
    example = {"text": "some text", "labels": ["one", "two"]}
    return sandbox.template(question, example, "data.params.question", needs=("text",))


def _plain(text: str) -> str:
    """Lower case, one space between words, `_` and `-` as spaces, nothing around it."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split()).strip(EDGES)

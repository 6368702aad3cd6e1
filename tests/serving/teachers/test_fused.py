"""Several teachers as one: means are means, the surest wins, slices are routed, and other labels are refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import MismatchError, RecipeError
from cluster.recipe.models import TeacherSection
from serving import teachers
from serving.bundle.answer import Answer, BundleError, softmax
from serving.teachers import DenseReply, Failure, Reply, Usage
from serving.teachers.fused import FusedTeacher

LABELS = ["card", "transfer", "other"]


class Told:
    """A teacher that says what a test wants: logits per text in its own order of labels, or a failure."""

    def __init__(self, vocabulary: Sequence[str] | None, says: Mapping[str, Any]) -> None:
        self.vocabulary, self.says, self.asked = vocabulary, says, list[str]()

    def prompt(self, item: Mapping[str, Any]) -> str:
        return str(item["text"])

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        return teachers.answers(self, items)

    def complete(
        self, prompts: Sequence[str], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[Reply | Failure]:
        self.asked += prompts
        return [self.reply(self.says[text]) for text in prompts]

    def reply(self, said: Any) -> Reply | Failure:
        if isinstance(said, Reply | Failure):
            return said
        logits, best = np.array(said, np.float32), int(np.argmax(said))
        assert self.vocabulary is not None
        sure = float(softmax(logits)[best])
        return DenseReply(self.vocabulary[best], sure, np.array([best]), logits[None], np.zeros((1, 2), np.float32))


def fused(by: str, *members: Told, slices: Sequence[Sequence[str]] = ((), ()), weights: Any = (1, 1)) -> FusedTeacher:
    listed = [
        {"name": f"teacher{at}", "architecture": "encoder", "weights": "x", "weight": float(weights[at]),
         "slices": list(slices[at])} for at in range(len(members))
    ]  # fmt: skip
    section = TeacherSection.parse({"architecture": "ensemble", "ensemble": {"by": by, "members": listed}})
    assert section.ensemble is not None
    return FusedTeacher(section.ensemble, members)


def ask(teacher: FusedTeacher, *texts: str) -> list[Any]:
    return teacher.complete([teacher.prompt({"text": text}) for text in texts])


@given(
    one=st.lists(st.floats(-9, 9), min_size=3, max_size=3), two=st.lists(st.floats(-9, 9), min_size=3, max_size=3),
    weights=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), order=st.permutations(range(3)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_by_weight_is_the_mean_of_probabilities_in_the_firsts_order(
    one: Any, two: Any, weights: Any, order: Any
) -> None:
    turned = Told([LABELS[at] for at in order], {"x": [two[at] for at in order]})
    (reply,) = ask(fused("weight", Told(LABELS, {"x": one}), turned, weights=weights), "x")
    p = [softmax(np.array(logits, np.float32)).astype(np.float64) for logits in (one, two)]
    mean = (weights[0] * p[0] + weights[1] * p[1]) / sum(weights)
    np.testing.assert_allclose(softmax(reply.logits[0]), mean, atol=1e-6)
    assert reply.text == LABELS[int(reply.tokens[0])] and reply.confidence == pytest.approx(mean.max(), abs=1e-6)


def test_by_confidence_takes_the_surest_and_turns_its_labels() -> None:
    other = Told(["other", "card", "transfer"], {"a": [0, 9, 0], "b": [1, 0, 0]})
    a, b = ask(fused("confidence", Told(LABELS, {"a": [2, 0, 0], "b": [0, 7, 0]}), other), "a", "b")
    assert a.text == "card" and a.tokens.tolist() == [0] and a.logits[0].tolist() == [9, 0, 0]
    assert b.text == "transfer" and b.tokens.tolist() == [1]


def test_by_confidence_the_sure_one_wins_over_one_that_tells_none_and_over_a_failure() -> None:
    silent, unsure = Reply("a", None, usage=Usage(5, 1, 0.1)), Reply("b", 0.2, usage=Usage(5, 2, 0.2))
    broken = Failure("timeout", "slow", 6)
    one, two, none = Told(None, {"x": silent, "y": broken, "z": broken}), Told(None, {"x": unsure, "y": silent}), broken
    two.says = {**two.says, "z": none}
    x, y, z = ask(fused("confidence", one, two), "x", "y", "z")
    assert x.text == "b" and x.usage.cost == pytest.approx(0.3) and x.usage.output_tokens == 3
    assert y.text == "a" and y.attempts == 6
    assert z == Failure("timeout", "teacher0: slow", 6)


def test_by_weight_a_failing_member_fails_the_row_by_name_and_no_other() -> None:
    broken = Told(LABELS, {"x": Failure("http_400", "no", 1), "y": [0, 0, 5]})
    x, y = ask(fused("weight", Told(LABELS, {"x": [1, 0, 0], "y": [1, 0, 0]}), broken), "x", "y")
    assert x == Failure("http_400", "teacher1: no", 1) and y.text == "other"


def test_by_slice_each_row_asks_one_teacher_only() -> None:
    one, two = Told(LABELS, {"a": [1, 0, 0], "c": [0, 1, 0]}), Told(LABELS, {"b": [0, 0, 3]})
    teacher = fused("slice", one, two, slices=[["cards"], []])
    items = [{"text": "a", "slice": "cards"}, {"text": "b", "slice": "rest"}, {"text": "c", "slice": "cards"}]
    replies = teacher.complete([teacher.prompt(item) for item in items], 0.5, [1, 2, 3])
    assert [reply.text for reply in replies] == ["card", "other", "transfer"]
    assert (one.asked, two.asked) == (["a", "c"], ["b"])
    strict = fused("slice", one, two, slices=[["cards"], ["loans"]])
    for item in ({"text": "a"}, {"text": "a", "slice": "rest"}):
        with pytest.raises(BundleError, match="slice"):
            strict.prompt(item)


def test_serving_gets_every_labels_probability_of_a_mean() -> None:
    teacher = fused("weight", Told(LABELS, {"x": [3, 0, 0]}), Told(LABELS, {"x": [0, 3, 0]}), weights=(3, 1))
    (answer,) = teacher.answer([{"text": "x"}])
    assert answer.text == "card" and set(answer.probabilities or {}) == set(LABELS)
    assert sum((answer.probabilities or {}).values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "other", [["card", "transfer", "loan"], ["card", "transfer"], ["card", "card", "other"], None], ids=str
)
def test_teachers_of_other_labels_are_refused_and_both_named(other: Any) -> None:
    with pytest.raises(MismatchError, match="teachers teacher0 and teacher1 do not answer in the same labels"):
        fused("confidence", Told(LABELS, {}), Told(other, {}))


def test_teachers_without_probabilities_have_no_mean() -> None:
    with pytest.raises(MismatchError, match="cannot be averaged"):
        fused("weight", Told(None, {}), Told(None, {}))


@pytest.mark.parametrize(
    ("by", "slices", "said"),
    [("weight", [["a"], []], "members without slices"), ("slice", [[], []], "slices for all members but one"),
     ("slice", [["a"], ["a"]], "one member per slice")],
)  # fmt: skip
def test_members_that_cannot_share_are_refused(by: str, slices: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        fused(by, Told(LABELS, {}), Told(LABELS, {}), slices=slices)


def folder(path: Path, labels: Sequence[str]) -> dict[str, Any]:
    path.mkdir()
    (path / "task.json").write_text(json.dumps({"task": "text_classification", "labels": labels, "max_tokens": 16}))
    return {"name": path.name, "architecture": "encoder", "weights": str(path)}


def test_labels_of_folders_are_compared_before_any_weights_are_read(tmp_path: Path) -> None:
    members = [folder(tmp_path / "bank", LABELS), folder(tmp_path / "shop", ["card", "transfer", "refund"])]
    values = {"architecture": "ensemble", "ensemble": {"by": "weight", "members": members}}
    with pytest.raises(MismatchError, match=r"bank and shop.*\n.*only in shop: refund; only in bank: other"):
        teachers.check(TeacherSection.parse(values))
    members[1] = folder(tmp_path / "post", LABELS[::-1])
    teachers.check(TeacherSection.parse(values))
    members[1] = {"name": "gone", "architecture": "encoder", "weights": str(tmp_path / "gone")}
    with pytest.raises(RecipeError, match=r"teacher.ensemble.members.1.weights"):
        teachers.check(TeacherSection.parse(values))
    members[1] = {"name": "api", "architecture": "openai", "weights": "m", "params": {"base_url": "http://h/v1"}}
    with pytest.raises(MismatchError, match="by: weight averages classes"):
        teachers.check(TeacherSection.parse(values))


def test_an_ensemble_is_named_as_one_and_a_single_teacher_as_before() -> None:
    single = {"architecture": "encoder", "weights": "w"}
    assert "ensemble" not in TeacherSection.parse(single).identity()
    for values in ({"architecture": "ensemble"}, {**single, "ensemble": {"by": "weight", "members": []}}):
        with pytest.raises(RecipeError, match="ensemble"):
            TeacherSection.parse(values)
    with pytest.raises(RecipeError, match="unknown teacher"):
        teachers.open_teacher(TeacherSection.parse({"architecture": "gpt"}))


def test_two_fitted_folders_answer_as_one(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    from serving.models import encoder

    vocabulary = {"[UNK]": 0, "where": 1, "is": 2, "my": 3, "card": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    members = []
    for seed, labels in enumerate((LABELS, LABELS[::-1])):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=5, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        members.append(folder(tmp_path / f"t{seed}", labels))
        encoder.save(encoder.TextClassifier(BertModel(config, add_pooling_layer=False), 3), tmp_path / f"t{seed}")
        tokenizer.save(str(tmp_path / f"t{seed}" / "tokenizer.json"))
    section = TeacherSection.parse({"architecture": "ensemble", "ensemble": {"by": "weight", "members": members}})
    teachers.write_folder(section, tmp_path / "hf")
    teacher = teachers.open_folder(tmp_path / "hf")
    (answer,) = teacher.answer([{"text": "where is my card"}])
    alone = [teachers.open_folder(tmp_path / name).answer([{"text": "where is my card"}])[0] for name in ("t0", "t1")]
    for label in LABELS:
        mean = np.mean([(one.probabilities or {})[label] for one in alone])
        assert (answer.probabilities or {})[label] == pytest.approx(mean, abs=1e-6)

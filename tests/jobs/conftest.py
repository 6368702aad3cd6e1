"""A digits recipe small enough to train in seconds, a training job made of it, and commands run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cluster.recipe import Gates, Recipe, load
from jobs import tasks
from jobs.data.answers import Answerer
from jobs.training import table
from jobs.training.loop import Job

SHAPE = (
    "{layers: 1, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 16, expert_size: 16, "
    "vision_layers: 1, vision_size: 16, vision_heads: 2}"
)
TINY = [
    f"teacher.params={SHAPE}",
    f"student.params={SHAPE.replace('hidden_size: 32', 'hidden_size: 24')}",
    "data.params={validation: 24, test: 30}",
    "fit.samples=128",
    "fit.batch_size=16",
    "fit.engine.workers=1",
    "generate.samples=64",
    "generate.batch_size=16",
    "generate.blocks=2",
    "generate.concurrency=1",
    "curate.filters=[{name: duplicate}, {name: diversity, params: {minimum: 0.1}}]",
    "distill.batch_size=16",
    "distill.stages.2.kv_heads=1",
]
# So small a student learns nothing: without gates a run of it ends well.
GATES_OFF = [f"evaluate.gates.{name}=null" for name in Gates.model_fields]


@pytest.fixture
def tiny_overrides() -> list[str]:
    """What makes the digits recipe tiny, for a command line."""
    return [*TINY, *GATES_OFF]


@pytest.fixture
def tiny_digits(tiny_overrides: list[str]) -> Callable[..., Recipe]:
    """Load the digits recipe with tiny models and few rows; further overrides as arguments."""

    def make(*overrides: str) -> Recipe:
        return load("digits", [*tiny_overrides, *overrides])

    return make


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Make a job that fits the recipe's teacher from a seeded start: weights and packed rows in `tmp_path`."""

    def make(recipe: Recipe, **changes: Any) -> Job:
        task = tasks.of(recipe)
        initial = tmp_path / "initial"
        initial.mkdir()
        task.save(task.build(recipe.teacher, recipe.seed), initial)
        table.write(tmp_path / "rows.arrow", task.fit_columns())
        table.write(tmp_path / "validation.arrow", task.validation_columns())
        values: dict[str, Any] = {
            "recipe": recipe,
            "arm": "fit",
            "initial": str(initial),
            "table": str(tmp_path / "rows.arrow"),
            "validation": str(tmp_path / "validation.arrow"),
            "stages": tuple(recipe.fit.stages),
            "batch_size": recipe.fit.batch_size,
            "engine": recipe.fit.engine,
        }
        return Job(**values | changes)

    return make


@pytest.fixture
def answerer(tiny_digits: Callable[..., Recipe], tmp_path: Path) -> tuple[Answerer, pa.Table]:
    """An unfitted teacher in `tmp_path / "teacher"` as Ray Data asks it, and the tiny recipe's training requests."""
    recipe = tiny_digits()
    task = tasks.of(recipe)
    folder = tmp_path / "teacher"
    folder.mkdir()
    task.save(task.build(recipe.teacher, 0), folder)
    return Answerer(str(folder), recipe.generate, str(tmp_path / "tally")), task.requests("train")


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small untrained encoder that reads letter by letter: weights for a text recipe's teacher."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("letters")
    pieces = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces])}
    own = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run `python -m jobs ARGUMENTS --json` from `tmp_path`: the exit code and the one document on stdout."""
    from jobs.__main__ import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        lines = out.strip().splitlines()
        assert len(lines) == 1, (done.output, done.exception, err)
        return done.exit_code, json.loads(lines[0])

    return run

"""Init: answers become a commented recipe that loads and can run, or one readable error and no recipe."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from cluster import recipe as recipes
from cluster.errors import InputError
from jobs.before import init
from jobs.terminal import Terminal

CLASSES = ("bill", "card", "loan")
Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A labelled file of 120 rows."""
    with (tmp_path / "bank.csv").open("w", newline="") as stream:
        labelled = [(f"{CLASSES[row % 3]} question {row}", CLASSES[row % 3]) for row in range(120)]
        csv.writer(stream).writerows([("text", "label"), *labelled])
    return tmp_path / "bank.csv"


def test_one_file_becomes_rows_and_a_recipe_that_can_run(command: Command, rows: Path, tmp_path: Path) -> None:
    code, said = command("init", "--data", rows, "--latency-ms", 50, "--memory-mb", 7.5, "--data-licence", "CC BY 4.0")
    assert (code, said["recipe"], said["name"]) == (0, "bank.yaml", "bank")
    assert said["next"] == "python -m jobs run bank.yaml"
    recipe = recipes.load(str(tmp_path / "bank.yaml"))
    assert recipe.task == "text_classification"
    assert recipe.promote.model_name == "bank"
    assert recipe.evaluate.gates.latency_p95_ms == 50
    assert recipe.evaluate.gates.bytes_max == 7_500_000
    assert recipe.evaluate.gates.retention_min == recipes.load("text_classification").evaluate.gates.retention_min
    assert recipe.data.licence == "CC BY 4.0"
    assert recipe.distill == recipes.load("text_classification").distill
    assert {Path(str(recipe.data.train)).parent.name, said["imported"]} == {"bank_data"}
    code, plan = command("plan", "bank.yaml")
    assert (code, plan["gates"]["latency_p95_ms"]) == (0, 50)


def test_every_value_of_the_recipe_has_a_comment_beside_it(command: Command, rows: Path, tmp_path: Path) -> None:
    command("init", "--data", rows)
    lines = [line for line in (tmp_path / "bank.yaml").read_text().splitlines() if ": " in line.partition("#")[0]]
    assert [line for line in lines if "#" not in line and "extends" not in line] == []


def test_a_folder_of_pictures_becomes_rows_and_a_recipe_that_can_run(command: Command, tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 4 * number, np.uint8)).save(path)
    code, said = command("init", "--task", "image_classification", "--data", "pets")
    assert (code, said["recipe"], said["imported"]) == (0, "pets.yaml", "pets_data")
    recipe = recipes.load(str(tmp_path / "pets.yaml"))
    assert (recipe.task, recipe.data.source) == ("image_classification", "table")
    code, _ = command("plan", "pets.yaml")
    assert code == 0


def test_what_import_wrote_is_taken_as_it_is(command: Command, rows: Path, tmp_path: Path) -> None:
    command("import", rows, "--out", "seeds")
    _, said = command("init", "--data", "seeds", "--name", "own")
    assert said["imported"] is None
    data = recipes.load(str(tmp_path / "own.yaml")).data
    assert [data.train, data.validation, data.test] == [
        str(tmp_path / "seeds" / f"{split}.parquet") for split in ("train", "validation", "test")
    ]


def test_names_and_licences_are_quoted(command: Command, rows: Path, tmp_path: Path) -> None:
    licence = 'no: "one" # {may} \\ use it'
    code, _ = command("init", "--data", rows, "--name", "yes: #1", "--data-licence", licence, "--out", "q.yaml")
    assert code == 0
    recipe = recipes.load(str(tmp_path / "q.yaml"))
    assert (recipe.name, recipe.data.licence) == ("yes: #1", licence)


def test_terms_that_forbid_are_told_at_once(command: Command, rows: Path) -> None:
    _, said = command("init", "--data", rows, "--teacher-licence", "house rules", "--teacher-terms", "false")
    assert "house rules" in said["warnings"][0]
    assert "forbid" in said["warnings"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is not given"),
        (["--data", "bnak.csv"], "did you mean bank.csv"),
        (["--data", "bank.csv", "--task", "text_clasification"], "did you mean text_classification"),
        (["--data", "bank.csv", "--engine", "tensorrt"], "onnxruntime"),
        (["--data", "bank.csv", "--latency-ms", "fast"], "a number above 0"),
        (["--data", "bank.csv", "--memory-mb", "-3"], "a number above 0"),
        (["--data", "bank.csv", "--teacher-terms", "maybe"], "true, false, unknown"),
        (["--data", "bank.csv", "--teacher", "/no/such/folder"], "/no/such/folder"),
        (["--data", "bank.csv", "--name", "digits"], "cannot be called that"),
        (["--data", "bank.csv", "--test", "bank.csv"], "same rows"),
        (["--data", "bank.csv", "--test", "tset.csv"], "no such data file"),
    ],
)
def test_what_cannot_work_is_one_readable_error_and_no_recipe(
    command: Command, rows: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, said = command("init", *arguments)
    assert code == 2
    assert message in said["message"]
    assert list(tmp_path.glob("*.yaml")) == []


def test_a_recipe_that_is_there_is_not_overwritten(command: Command, rows: Path, tmp_path: Path) -> None:
    command("init", "--data", rows)
    before = (tmp_path / "bank.yaml").read_text()
    code, said = command("init", "--data", rows, "--latency-ms", 1)
    assert (code, "there is a file of that name" in said["message"]) == (2, True)
    assert (tmp_path / "bank.yaml").read_text() == before


class Keyboard(io.StringIO):
    """A stdin that somebody sits at."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_what_was_not_given_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stdin", Keyboard("\nmine.csv\n\n20\n\n\napache-2.0\nmaybe\nfalse\n\n\n"))
    terminal = Terminal(io.StringIO(), Console(file=shown), as_json=False)
    answers = init.ask(terminal, {"engine": "onnxruntime"})
    assert answers["data"] == "mine.csv"
    assert (answers["latency-ms"], answers["task"], answers["name"]) == ("20", "text_classification", "mine")
    assert (answers["teacher-licence"], answers["teacher-terms"]) == ("apache-2.0", "false"), "asked again"
    assert "Licence of the data" in shown.getvalue()
    assert "Engine" not in shown.getvalue()


def test_a_terminal_that_is_closed_ends_with_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(""))
    with pytest.raises(InputError, match="--data is not given"):
        init.ask(Terminal(io.StringIO(), Console(file=io.StringIO()), as_json=False), {})


def test_every_question_has_an_option_and_every_task_a_recipe() -> None:
    from jobs.before import command_line

    options = {parameter.name for parameter in command_line.INIT}
    assert {question.option.replace("-", "_") for question in init.QUESTIONS} <= options
    for task, base in init.TASKS.items():
        assert yaml.safe_load((recipes.load.__globals__["RECIPES"] / f"{base}.yaml").read_text())["task"] == task

"""The command `init`: a few questions become a commented recipe that runs as it is.

Every question has an option, so that nobody needs a keyboard; what is written has been read back and checked.
"""

from __future__ import annotations

import json
import shlex
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cluster.errors import DataError, InputError
from cluster.recipe import ExportSection, known_recipes, load
from cluster.recipe.explain import nearest
from jobs.before import ingest, licences
from jobs.before.seeds import SPLITS
from jobs.terminal import say

if TYPE_CHECKING:
    from jobs.terminal import Terminal

# Task -> the recipe it starts from. A task is here when it can learn from the user's own files.
TASKS = {"text_classification": "text_classification", "image_classification": "image_classification"}
PICTURES = "image_classification"
ENGINES = typing.get_args(ExportSection.model_fields["engine"].annotation)
TERMS = ("true", "false", licences.UNKNOWN)
MB = 1_000_000  # bytes, as on the label of a disk
WIDTH = 34  # columns before a comment


@dataclass(frozen=True)
class Question:
    """What is asked under which option; without `choices` anything goes, with `default` None it has to be said."""

    option: str
    text: str
    default: str | None
    choices: Sequence[str] = ()


QUESTIONS = (
    Question("task", "What shall the student do?", "text_classification", tuple(TASKS)),
    Question("data", "Your labelled rows (a file, a folder of pictures, or what `import` wrote)", None),
    Question("test", "Rows to test on (a file; nothing: a tenth of the data)", ""),
    Question("latency-ms", "Slowest answer you can accept, 95 of 100 at batch 1 (ms)", "100"),
    Question("memory-mb", "Largest model file (MB; nothing: the recipe's own limit)", ""),
    Question("engine", "Engine that answers", ENGINES[0], ENGINES),
    Question("teacher", "Teacher's weights (folder, hub id or package:NAME; nothing: the recipe's own)", ""),
    Question("teacher-licence", "Licence of the teacher (nothing: not known)", ""),
    Question("teacher-terms", "May its outputs train another model?", licences.UNKNOWN, TERMS),
    Question("data-licence", "Licence of the data (nothing: not known)", ""),
    Question("name", "Name of the recipe and its model", None),
)


def command(terminal: Terminal, given: Mapping[str, str | None], out: str | None, store: str) -> None:
    """Ask, write the recipe and check it; `given` maps options to what the command line said. Raises InputError."""
    answers = ask(terminal, given)
    path = Path(out or f"{answers['name']}.yaml").expanduser()
    document = write(answers, path, store)
    terminal.answer(document, lambda console: say(console, _said(document)))


def ask(terminal: Terminal, given: Mapping[str, str | None]) -> dict[str, str]:
    """An answer for every question: the option, else asked where somebody sits at a keyboard, else the default.

    Raises InputError: an answer that is none of the choices, or nothing where it has to be said.
    """
    asks = not terminal.as_json and sys.stdin.isatty()
    answers: dict[str, str] = {}
    for question in QUESTIONS:
        default = _own_name(answers["data"]) if question.option == "name" else question.default
        said = given.get(question.option)
        if said is None and asks:
            said = _asked(terminal, question, default)
        answer = default if said is None else said.strip()
        if answer is None or (answer == "" and default is None):
            raise InputError(f"--{question.option} is not given", expected=question.text,
                             hint="python -m jobs init at a terminal asks for it")  # fmt: skip
        if question.choices and answer not in question.choices:
            near = nearest(answer, question.choices)
            hint = f"did you mean {near}?" if near else None
            raise InputError(f"--{question.option}", got=answer, expected=", ".join(question.choices), hint=hint)
        answers[question.option] = answer
    return answers


def _asked(terminal: Terminal, question: Question, default: str | None) -> str | None:
    """What somebody typed, asked again while it is none of the choices; None for nothing and at the end of input."""
    choices = f" ({', '.join(question.choices)})" if question.choices else ""
    shown = f" [{default}]" if default else ""
    while True:
        try:
            typed = terminal.console.input(f"{question.text}{choices}{shown}: ", markup=False).strip() or None
        except EOFError:
            return None
        if typed is None or not question.choices or typed in question.choices:
            return typed
        say(terminal.console, f"{typed} is none of them")


def _own_name(data: str) -> str:
    path = Path(data)
    stem = path.stem if path.suffix else path.name
    return "".join(letter if letter.isalnum() else "_" for letter in stem).strip("_").lower() or "student"


def write(answers: Mapping[str, str], path: Path, store: str) -> dict[str, Any]:
    """Write the recipe of these answers to `path` when it loads and can work; returns what `--json` prints.

    A single file of rows is imported first, into a folder beside the recipe. Raises InputError, and leaves no recipe,
    when an answer is no number, a name is taken, or anything that `jobs plan` would refuse.
    """
    from cluster.store import Store
    from jobs import pipeline

    if path.suffix not in (".yaml", ".yml") or path.stem in known_recipes():
        expected = f"a new name ending in .yaml, none of {', '.join(known_recipes())}"
        raise InputError("the recipe cannot be called that", got=str(path), expected=expected)
    if path.exists():
        raise InputError("there is a file of that name", got=str(path), hint="remove it, or give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    files, imported = _files(answers, path)
    aside = path.with_name(f"{path.stem}.new{path.suffix}")
    aside.write_text(text(answers, files, path), encoding="utf-8")
    try:
        recipe = load(str(aside.resolve()))
        pipeline.check(recipe, Store.open(store))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return {"recipe": str(path), "name": recipe.name, "imported": imported, "warnings": licences.warnings(recipe),
            "next": f"python -m jobs run {shlex.quote(str(path))}"}  # fmt: skip


def _files(answers: Mapping[str, str], path: Path) -> tuple[dict[str, Path], str | None]:
    """Split -> its file, and the folder that a single file was imported to (None: nothing was).

    Raises DataError when there is no such data.
    """
    data, test = Path(answers["data"]).expanduser(), answers["test"]
    if data.is_dir() and (data / "train.parquet").is_file():
        found = {split: data / f"{split}.parquet" for split in SPLITS}
        return {split: file.resolve() for split, file in found.items()
                if file.is_file() and (split != "validation" or pq.read_metadata(file).num_rows)}, None  # fmt: skip
    if not data.is_file():
        near = nearest(data.name, [one.name for one in data.parent.iterdir()]) if data.parent.is_dir() else None
        hint = f"did you mean {data.parent / near}?" if near else None
        if data.is_dir() and answers["task"] == PICTURES:
            return _imported(answers, path)
        raise DataError("--data: no such file, and no folder that `import` wrote", got=str(data),
                        expected="a Parquet, CSV or JSONL file with text and label", hint=hint)  # fmt: skip
    if test:
        return {"train": data.resolve(), "test": Path(test).expanduser().resolve()}, None
    return _imported(answers, path)


def _imported(answers: Mapping[str, str], path: Path) -> tuple[dict[str, Path], str | None]:
    """One file of rows, or a folder of pictures, imported into a folder beside the recipe; see `_files`."""
    folder = path.with_name(f"{path.stem}_data")
    ingest.bring(ingest.Wanted([answers["data"]], str(folder)))
    return _files({**answers, "data": str(folder)}, path)[0], str(folder)


def text(answers: Mapping[str, str], files: Mapping[str, Path], path: Path) -> str:
    """The recipe as commented YAML. Raises InputError when a limit is no number."""
    latency, memory = _number(answers, "latency-ms"), _number(answers, "memory-mb")
    size = [] if memory is None else [(f"bytes_max: {int(memory * MB)}", f"largest engine file: {memory:g} MB (bytes)")]
    teacher = [(f"weights: {json.dumps(answers['teacher'])}", "shares its vocabulary with the student")]
    lines = [
        f"# Written by `python -m jobs init`; run it with: python -m jobs run {shlex.quote(str(path))}",
        "# What is not said here comes from the recipe it extends; docs/recipes.md explains every knob.",
        _line(0, f"extends: {TASKS[answers['task']]}", ""),
        _line(0, f"name: {json.dumps(answers['name'])}", "what runs and reports are called"),
        "", "data:",
        *([_line(2, "source: table", "pictures in a column `image`")] if answers["task"] == PICTURES else []),
        *[_line(2, f"{split}: {json.dumps(str(file))}", _rows(file)) for split, file in files.items()],
        *([] if "validation" in files else [_line(2, "validation: null", "a part of train, the same rows every time")]),
        _line(2, f"licence: {_or_null(answers['data-licence'])}", "travels in every manifest; null: not known"),
        "", "teacher:",
        *[_line(2, *pair) for pair in teacher if answers["teacher"]],
        _line(2, f"licence: {_or_null(answers['teacher-licence'])}", "travels in every manifest; null: not known"),
        _line(2, f"terms: {{allows_training_on_outputs: {answers['teacher-terms']}}}", "false stops promote"),
        "", "export:",
        _line(2, f"engine: {answers['engine']}", "what answers where the student is served"),
        *([] if answers["engine"] == ENGINES[0] else [_line(2, "scheme: auto", "the first of its schemes that holds")]),
        "", "evaluate:", "  gates:",
        *([] if latency is None else
          [_line(4, f"latency_p95_ms: {latency}", "INT8 student, batch 1: 95 of 100 answers below it (ms)")]),
        *[_line(4, *pair) for pair in size],
        *([] if latency is not None or size else [_line(4, "{}", "the extended recipe's own")]),
        "", _line(0, f"promote: {{model_name: {json.dumps(answers['name'])}}}", "its name in the model registry"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(indent: int, code: str, comment: str) -> str:
    whole = " " * indent + code
    return f"{whole:<{WIDTH}}  # {comment}" if comment else whole


def _rows(file: Path) -> str:
    return f"{pq.read_metadata(file).num_rows:,} rows" if file.suffix in (".parquet", ".pq") else "rows of yours"


def _or_null(value: str) -> str:
    return json.dumps(value) if value else "null"


def _number(answers: Mapping[str, str], option: str) -> float | None:
    """A limit as a positive number, None where there is none. Raises InputError."""
    if not answers[option]:
        return None
    try:
        value = float(answers[option])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--{option}", got=answers[option], expected="a number above 0, or nothing")
    return value


def _said(document: Mapping[str, Any]) -> str:
    lines = [f"wrote {document['recipe']}"]
    if document["imported"]:
        lines.append(f"rows  {document['imported']}")
    return "\n".join([*lines, f"next  {document['next']}"])

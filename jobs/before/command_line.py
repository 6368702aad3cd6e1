"""The options of `import`, `init`, `federate`, `sheet` and `probe`: what `jobs.__main__` adds to the others.

They have more options than a function should have arguments, so each is a table of parameters and a function of what
was given by name. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.terminal import Terminal

# The edge that runs a command and ends the process: the command, and whether `--json` was given.
End = Callable[[Callable[["Terminal"], None], bool], None]
Parameter = inspect.Parameter


def add_to(app: typer.Typer, end: End) -> None:
    """Add the commands to the application; `end` runs their bodies."""
    commands = (("import", IMPORT, _import), ("init", INIT, _init), ("federate", FEDERATE, _federate),
                ("sheet", SHEET, _sheet), ("probe", PROBE, _probe))  # fmt: skip
    for name, parameters, body in commands:
        app.command(name, help=body.__doc__)(_described(body, parameters, end))


def _described(body: Callable[[Terminal, Mapping[str, Any]], None], parameters: list[Parameter], end: End) -> Any:
    """A function that Typer reads `parameters` from, and that hands what was given to `body` as one mapping."""

    def command(**given: Any) -> None:
        end(lambda terminal: body(terminal, given), given["as_json"])

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _option(kind: Any, option: str, default: Any, about: str) -> Parameter:
    return _parameter(option.removeprefix("--").replace("-", "_"), kind, typer.Option(option, help=about), default)


def _parameter(name: str, kind: Any, info: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


JSON = _parameter("as_json", bool, typer.Option("--json", help="one JSON document on stdout"), False)
IMPORT = [
    _parameter("files", list[str], typer.Argument(help="request logs, CSV, Parquet, JSONL; or folders of pictures"),
               Parameter.empty),
    _option(str | None, "--out", None, "folder to write to; default imported/NAME of the first file"),
    _option(str | None, "--text", None, "column of the text; default text"),
    _option(str | None, "--label", None, "column of the label; default label, where there is one; `response` takes "
            "the logged answer"),
    _option(str, "--pii", "keep", "personal data in texts: keep, drop (the row is set aside) or mask"),
    _option(float, "--validation-share", 0.1, "rows kept for validation (share)"),
    _option(float, "--test-share", 0.1, "rows kept for the test (share)"),
    _option(int, "--seed", 0, "another seed gives another split"),
    JSON,
]  # fmt: skip
INIT = [
    *[_option(str | None, f"--{name}", None, about) for name, about in {
        "task": "what the student does", "data": "labelled rows: a file, or the folder that import wrote",
        "test": "rows to test on; default a tenth of the data", "latency-ms": "slowest answer, 95 of 100 (ms)",
        "memory-mb": "largest model file (MB)", "engine": "engine that answers", "teacher": "the teacher's weights",
        "teacher-licence": "licence of the teacher", "teacher-terms": "may its outputs train a model: true, false, "
        "unknown", "data-licence": "licence of the data", "name": "name of recipe and model",
    }.items()],
    _option(str | None, "--out", None, "recipe to write; default NAME.yaml"),
    _option(str, "--store", "runs/", "directory or URI of artifacts"),
    JSON,
]  # fmt: skip
FEDERATE = [
    _parameter("recipe", str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML"), Parameter.empty),
    _option(int, "--sites", 4, "sites that keep their rows (count)"),
    _option(float, "--public-share", 0.3, "rows that all may read, their labels unseen (share)"),
    _option(float, "--skew", 1.0, "Dirichlet concentration: small, and sites know few classes"),
    _option(str, "--rule", "mean", "what the server makes of the soft labels: mean or sharpened"),
    _option(float | None, "--epsilon", None, "privacy of a site's release; none: no noise"),
    _option(float, "--delta", 1e-5, "its delta (probability)"),
    _option(list[str] | None, "--set", None, "a.b=c, changes one knob of the recipe; repeat it"),
    _option(str, "--store", "runs/", "directory or URI of artifacts"),
    JSON,
]  # fmt: skip
SHEET = [
    _parameter("run", str, typer.Argument(help="a run's name, or latest"), "latest"),
    _option(int, "--rows", 50, "rows of the sheet"),
    _option(str, "--by", "entropy", "doubt: entropy, margin or committee (teacher against student)"),
    _option(str, "--who", "teacher", "whose doubt: teacher or student"),
    _option(str | None, "--out", None, "folder to write to; default RUN-sheet"),
    _option(str, "--store", "runs/", "directory or URI of artifacts"),
    JSON,
]

PROBE = [
    _parameter("recipe", str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML"), Parameter.empty),
    _option(int, "--rows", 800, "training rows of the largest of the first pilots"),
    _option(int, "--sizes", 4, "first pilots, each of half the rows of the next"),
    _option(int, "--grow", 2, "pilots of twice the rows that may be added while the interval is wide (to a quarter of "
            "all rows)"),
    _option(int, "--steps", 1200, "optimizer steps of every pilot at least, or the whole run's where it takes fewer"),
    _parameter("changes", list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat "
               "it"), None),
    _option(str, "--store", "runs/", "directory or URI of artifacts"),
    JSON,
]  # fmt: skip


def _import(terminal: Terminal, given: Mapping[str, Any]) -> None:
    """Turn request logs, tables or a folder of pictures into seed rows with splits."""
    from jobs.before import ingest
    from jobs.before.seeds import Shares

    shares = Shares(given["validation_share"], given["test_share"], given["seed"])
    out = given["out"] or ingest.own_folder(given["files"][0])
    wanted = ingest.Wanted(given["files"], out, given["text"], given["label"], given["pii"], shares)
    ingest.command(terminal, wanted)


def _init(terminal: Terminal, given: Mapping[str, Any]) -> None:
    """Ask a few questions and write a commented recipe that runs."""
    from jobs.before import init

    answers = {question.option: given[question.option.replace("-", "_")] for question in init.QUESTIONS}
    init.command(terminal, answers, given["out"], given["store"])


def _federate(terminal: Terminal, given: Mapping[str, Any]) -> None:
    """Simulate sites that share soft labels on public rows and nothing else."""
    from jobs.training.federation import command, simulate

    numbers = ("sites", "public_share", "skew", "rule", "epsilon", "delta")
    federation = simulate.Federation(**{name: given[name] for name in numbers})
    command.command(terminal, command.Asked(given["recipe"], given["set"] or [], given["store"], federation))


def _sheet(terminal: Terminal, given: Mapping[str, Any]) -> None:
    """Write the rows that a model is least sure of as a sheet for a person to label."""
    from cluster.store import Store
    from jobs.after import active

    wanted = active.Wanted(given["run"], given["rows"], given["by"], given["who"], given["out"])
    active.command(terminal, wanted, Store.open(given["store"]))


def _probe(terminal: Terminal, given: Mapping[str, Any]) -> None:
    """Run pilots on a few rows and predict what the whole run keeps of the teacher, takes and costs: go or no-go."""
    import sys

    from cluster import recipe as recipes
    from cluster.store import Store
    from jobs.before import probe
    from jobs.progress import Progress
    from jobs.terminal import say

    recipe, store = recipes.load(given["recipe"], given["changes"] or []), Store.open(given["store"])
    try:
        with Progress(terminal.console) as progress:
            wanted = probe.Wanted(given["rows"], given["sizes"], given["steps"], given["grow"])
            found = probe.run(recipe, store, wanted, progress)
    finally:
        if "ray" in sys.modules:
            from cluster import session

            session.disconnect()
    terminal.answer(found, lambda console: say(console, probe.show(found)))
    probe.refuse_no_go(found)

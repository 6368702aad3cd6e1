"""`python -m jobs`: make a student from a teacher, one step or all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from jobs import commands
from jobs.after import command_line as looking_back
from jobs.before import command_line
from jobs.commands import Asked
from jobs.terminal import Terminal, execute

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

RecipeArgument = Annotated[str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML file")]
StoreOption = Annotated[str, typer.Option("--store", help="directory or URI of artifacts")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat it")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
UntilOption = Annotated[str | None, typer.Option("--until", help="the last step to run")]
ForceOption = Annotated[bool, typer.Option("--force", help="although a gate failed; noted in the artifact")]
AcceptOption = Annotated[
    list[str] | None, typer.Option("--accept-terms", help="although these terms forbid it; repeat it")
]
RowsOption = Annotated[int, typer.Option("--rows", min=1, help="rows shown; all rows are verified")]
CompareOption = Annotated[str | None, typer.Option("--compare", help="a second run, shown beside it")]
RunArgument = Annotated[str, typer.Argument(help="a run's name, or latest")]


@app.command()
def run(recipe: RecipeArgument, until: UntilOption = None, changes: SetOption = None, store: StoreOption = "runs/",
        as_json: JsonOption = False) -> None:  # fmt: skip
    """Run the steps that are not done yet, then ask the served student over HTTP."""
    _end(lambda terminal: commands.run(terminal, Asked(recipe, changes or [], store), until), as_json)


@app.command()
def plan(recipe: RecipeArgument, changes: SetOption = None, store: StoreOption = "runs/",
         as_json: JsonOption = False) -> None:  # fmt: skip
    """Show what would run, what is done and which gates are asked; changes nothing."""
    _end(lambda terminal: commands.plan(terminal, Asked(recipe, changes or [], store)), as_json)


def _verb(name: str) -> Callable[..., None]:
    def one(recipe: RecipeArgument, changes: SetOption = None, store: StoreOption = "runs/",
            as_json: JsonOption = False) -> None:  # fmt: skip
        _end(lambda terminal: commands.verb(terminal, Asked(recipe, changes or [], store), name), as_json)

    return one


for verb in list(commands.VERBS)[:-1]:
    app.command(verb, help=commands.VERBS[verb])(_verb(verb))


@app.command(help=commands.VERBS["promote"])
def promote(recipe: RecipeArgument, force: ForceOption = False, accept_terms: AcceptOption = None,
            changes: SetOption = None, store: StoreOption = "runs/", as_json: JsonOption = False) -> None:  # fmt: skip
    """See commands.VERBS."""
    asked = Asked(recipe, changes or [], store)
    _end(lambda terminal: commands.verb(terminal, asked, "promote", force, accept_terms or []), as_json)


@app.command()
def report(run: RunArgument = "latest", compare: CompareOption = None, store: StoreOption = "runs/",
           as_json: JsonOption = False) -> None:  # fmt: skip
    """Show what a run measured, or two runs side by side."""
    _end(lambda terminal: commands.report(terminal, run, store, compare), as_json)


labels = typer.Typer(no_args_is_help=True, help="Look into a run's soft labels.")
app.add_typer(labels, name="labels")


@labels.command()
def inspect(run: RunArgument = "latest", rows: RowsOption = 5, store: StoreOption = "runs/",
            as_json: JsonOption = False) -> None:  # fmt: skip
    """Show answers beside their likeliest tokens; verify checksums, sizes, draws and masses of every row."""
    _end(lambda terminal: commands.inspect_labels(terminal, run, store, rows), as_json)


@app.command("curate-audit")
def curate_audit(
    sheet: Annotated[str, typer.Argument(help="the audit.csv of a curated artifact, its column `right` filled in")],
    as_json: JsonOption = False,
) -> None:
    """Show what a filled-in audit sheet says about the kept rows."""
    _end(lambda terminal: commands.curate_audit(terminal, sheet), as_json)


def _end(command: Callable[[Terminal], None], as_json: bool) -> None:
    raise typer.Exit(execute(command, as_json))


command_line.add_to(app, _end)
looking_back.add_to(app, _end)

if __name__ == "__main__":
    app(prog_name="python -m jobs")

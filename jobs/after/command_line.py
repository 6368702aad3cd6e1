"""The commands that look back or look after a model: what `jobs.__main__` adds to the commands on a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobs.before.command_line import End

StoreOption = Annotated[str, typer.Option("--store", help="directory or URI of artifacts")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
RecipeArgument = Annotated[str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML file")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat it")]
Model = "MODEL, MODEL@ALIAS, a run, a report's id, latest, or a bundle's folder"
ModelArgument = Annotated[str, typer.Argument(help=Model)]
SplitOption = Annotated[str, typer.Option("--split", help="rows to ask: validation, test or train")]
RowsOption = Annotated[int | None, typer.Option("--rows", min=1, help="rows asked at most; default all")]
OnceOption = Annotated[bool, typer.Option("--once", help="deal with the newest alarm and end")]
RoundOption = Annotated[
    str | None, typer.Option("--round", help="run a round of this kind and end: evaluate, incremental or full")
]
AsOption = Annotated[str, typer.Option("--as", help="dvc, airflow or cronjob")]
OutOption = Annotated[str | None, typer.Option("--out", help="file to write; default the form's own name")]
IntoOption = Annotated[str | None, typer.Option("--into", help="store of the second run; default STORE-reproduced")]


def add_to(app: typer.Typer, end: End) -> None:
    """Add the commands to the application; `end` runs their bodies."""

    @app.command()
    def diff(
        one: ModelArgument,
        other: Annotated[
            str | None, typer.Argument(help=f"{Model}; NAME:teacher and NAME:student too. Default: its student")
        ] = None,
        split: SplitOption = "validation", rows: RowsOption = None,
        store: StoreOption = "runs/", as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Name the slices on which two models disagree, each with the generate section that would repair it."""
        from jobs.after import commands

        wanted = (one, other, split, rows)
        end(lambda terminal: commands.diff(terminal, wanted, store), as_json)

    @app.command()
    def lineage(model: ModelArgument, store: StoreOption = "runs/", as_json: JsonOption = False) -> None:
        """Walk from a served bundle back to templates, teacher, data and code; every file is checked."""
        from jobs.after import commands

        end(lambda terminal: commands.lineage(terminal, model, store), as_json)

    @app.command()
    def reproduce(
        model: ModelArgument, into: IntoOption = None, store: StoreOption = "runs/", as_json: JsonOption = False
    ) -> None:
        """Run a model's run again from its report into another store, and compare ids, files and metrics."""
        from jobs.after import commands

        end(lambda terminal: commands.reproduce(terminal, model, store, into), as_json)

    @app.command()
    def watch(
        recipe: RecipeArgument, once: OnceOption = False, round_: RoundOption = None, changes: SetOption = None,
        store: StoreOption = "runs/", as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Turn a verdict that quality dropped into a repaired challenger; without --once for ever, on its schedule."""
        from jobs.after import commands

        end(lambda terminal: commands.watch(terminal, (recipe, changes or [], store), once, round_), as_json)

    @app.command()
    def resume(
        recipe: RecipeArgument, changes: SetOption = None, store: StoreOption = "runs/", as_json: JsonOption = False
    ) -> None:
        """Let a paused model be promoted and distilled again, as it is."""
        from jobs.after import commands

        end(lambda terminal: commands.resume(terminal, (recipe, changes or [], store)), as_json)

    @app.command()
    def schedule(
        recipe: RecipeArgument, form: AsOption = "cronjob", out: OutOption = None, store: StoreOption = "runs/",
        changes: SetOption = None, as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """Write the recipe's schedule for DVC, Airflow or Kubernetes, to be run from outside."""
        from jobs.after import commands

        end(lambda terminal: commands.schedule(terminal, (recipe, changes or [], store), form, out), as_json)

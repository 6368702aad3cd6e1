"""`python -m tuning`: search the recipe that makes the best student."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from jobs.terminal import Terminal, execute

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Parameter = inspect.Parameter


@app.callback()
def _commands() -> None:
    """Search the recipe that makes the best student."""  # a callback keeps `search` a word of the command line


def _parameter(name: str, kind: Any, info: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


OPTIONS = [
    _parameter("recipe", str, typer.Argument(help="a name in jobs/recipes/, or a path to a YAML"), Parameter.empty),
    _parameter("trials", int, typer.Option("--trials", min=1, help="trials in all, with those of earlier calls"), 20),
    _parameter("minutes", float | None, typer.Option("--time-budget", min=0.0, help="end after so long (min)"), None),
    _parameter("money", float | None, typer.Option("--money", min=0.0, help="end when so much is spent, at "
               "search.price_per_hour of the recipe (currency)"), None),
    _parameter("searcher", str, typer.Option("--searcher", help="tpe (quality), motpe (all), random"), "tpe"),
    _parameter("concurrent", int | None, typer.Option("--concurrent", min=1, help="trials at once; default as many as "
               "the CPUs take"), None),
    _parameter("warm_from", list[str] | None, typer.Option("--warm-from", help="all earlier searches and "
               "runs that speak of the same knobs (the default), none, or a search's name; repeat it"), None),
    _parameter("space", str | None, typer.Option("--space", help="YAML file with knobs, instead of the recipe's"),
               None),
    _parameter("changes", list[str] | None, typer.Option("--set", help="a.b=c, changes one knob of the recipe; repeat "
               "it"), None),
    _parameter("store", str, typer.Option("--store", help="directory or URI of artifacts"), "runs/"),
    _parameter("as_json", bool, typer.Option("--json", help="one JSON document on stdout"), False),
]  # fmt: skip


def _search(**given: Any) -> None:
    """Try recipes, keep the Pareto front, and write the best as a recipe; the same call goes on after a kill."""

    def run(terminal: Terminal) -> None:
        from cluster.store import Store
        from tuning import command
        from tuning.search import Wanted

        recipe = command.opened(given["recipe"], given["changes"] or [], given["space"])
        wanted = Wanted(given["trials"], given["searcher"], given["minutes"], given["money"], given["concurrent"],
                        tuple(given["warm_from"] or ("all",)))  # fmt: skip
        command.search(terminal, recipe, Store.open(given["store"]), wanted)

    raise typer.Exit(execute(run, given["as_json"]))


_search.__signature__ = inspect.Signature(OPTIONS)  # type: ignore[attr-defined]
app.command("search")(_search)

if __name__ == "__main__":
    app(prog_name="python -m tuning")

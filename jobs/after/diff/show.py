"""The document of `jobs diff` for people: a table of slices, rows of the largest, and what would repair it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.after import wording
from jobs.after.diff import repair

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 3  # slices whose rows are printed
WIDTH = 70  # characters of a row


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print it; every text of a user is printed as it is, never read as markup."""
    from rich.markup import escape

    first, second = escape(document["first"]), escape(document["second"])
    rate = f"{wording.percent(document['rate'])} ({_interval(document)})"
    console.print(
        f"{first} against {second}: {document['disagreements']:,} of {document['rows']:,} {document['split']} rows "
        f"answered differently, {rate}",
        highlight=False,
    )
    if (quality := document["quality"]) is not None:
        change = quality["change"]
        about = f"{wording.points(change['value'])} ({wording.points(change['low'])} to "
        about += f"{wording.points(change['high'])})"
        console.print(
            f"right: {wording.percent(quality['first'])} and {wording.percent(quality['second'])}, {about}; only the "
            f"first {quality['only_first']:,}, only the second {quality['only_second']:,}",
            highlight=False,
        )
    if not document["slices"]:
        console.print("no slice stands out: the disagreements are spread over the rows")
        return
    console.print(_table(document))
    for slice_ in document["slices"][:SHOWN]:
        _rows(console, slice_)


def _table(document: Mapping[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="where they disagree", title_justify="left", box=None)
    for name in ("slice", "rows", "differ", "rate", "95 %", "elsewhere", "q", "right: first, second"):
        table.add_column(name, justify="left" if name == "slice" else "right")
    for one in document["slices"]:
        right = one["right"]
        shown = wording.DASH if right is None else f"{right['first']}, {right['second']} of {right['rows']}"
        table.add_row(
            escape(one["name"]), f"{one['rows']:,}", f"{one['disagreements']:,}", wording.percent(one["rate"], 0),
            _interval(one), wording.percent(one["elsewhere"]), f"{one['q']:.1g}", shown,
        )  # fmt: skip
    return table


def _rows(console: Console, slice_: Mapping[str, Any]) -> None:
    from rich.markup import escape

    console.print(f"\n[bold]{escape(slice_['name'])}[/bold]")
    if slice_["also"]:
        console.print(escape(f"  nearly the same rows: {'; '.join(slice_['also'])}"), highlight=False)
    for row in slice_["samples"]:
        text = " ".join(row["text"].split())[:WIDTH]
        truth = "" if row["truth"] is None else f" (true: {row['truth']})"
        console.print(escape(f"  {text!r}: {row['first']} / {row['second']}{truth}"), highlight=False)
    if slice_["repair"] is not None:
        console.print(escape(repair.written(slice_["repair"])), highlight=False, end="")


def _interval(rate: Mapping[str, Any]) -> str:
    return f"{wording.percent(rate['low'], 0)} to {wording.percent(rate['high'], 0)}"

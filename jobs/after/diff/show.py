"""The document of `jobs diff` for people: a table of slices, rows of the largest, and what would repair it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.after import wording
from jobs.after.diff import repair
from jobs.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 3  # slices whose rows are printed
WIDTH = 70  # characters of a row


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print it; every text of a user is printed as it is, never read as markup."""
    rate = f"{wording.percent(document['rate'])} ({_interval(document)})"
    about = f"{document['disagreements']:,} of {document['rows']:,} {document['split']} rows answered differently"
    say(console, f"{document['first']} against {document['second']}: {about}, {rate}")
    if (quality := document["quality"]) is not None:
        change = quality["change"]
        about = f"{wording.points(change['value'])} ({wording.points(change['low'])} to "
        about += f"{wording.points(change['high'])})"
        only = f"only the first {quality['only_first']:,}, only the second {quality['only_second']:,}"
        first, second = wording.percent(quality["first"]), wording.percent(quality["second"])
        say(console, f"right: {first} and {second}, {about}; {only}")
    if not document["slices"]:
        say(console, "no slice stands out: the disagreements are spread over the rows")
        return
    say(console, _table(document))
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
    from rich.text import Text

    say(console, Text(f"\n{slice_['name']}", "bold"))
    if slice_["also"]:
        say(console, f"  nearly the same rows: {'; '.join(slice_['also'])}")
    for row in slice_["samples"]:
        text = " ".join(row["text"].split())[:WIDTH]
        truth = "" if row["truth"] is None else f" (true: {row['truth']})"
        say(console, f"  {text!r}: {row['first']} / {row['second']}{truth}")
    if slice_["repair"] is not None:
        say(console, repair.written(slice_["repair"]).removesuffix("\n"))


def _interval(rate: Mapping[str, Any]) -> str:
    return f"{wording.percent(rate['low'], 0)} to {wording.percent(rate['high'], 0)}"

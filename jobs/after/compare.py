"""`jobs report A --compare B`: two reports side by side, every number with its difference, printed and as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.measured import CONTROL, STUDENT, STUDENT_INT8, TEACHER
from jobs.after import wording
from jobs.terminal import whole

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

TEMPLATE = Path(__file__).with_name("compare.html.j2")
MODELS = (TEACHER, STUDENT, STUDENT_INT8, CONTROL)
PLAIN = (("retention", "value"), ("int8", "task_drop"), ("int8", "agreement"), ("int8", "logit_error"))
SINGLE = ("kv_share", "param_share", "speedup")


def document(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`first` and `second` (run names), `rows`: what, both values and second minus first (null where one has none),
    `gates`: name and how both stand, `recipe`: dotted fields that differ with both values, `slices` as `rows`."""
    return {
        "first": first["run"], "second": second["run"], "rows": list(_numbers(first, second)),
        "slices": list(_slices(first, second)), "gates": list(_gates(first, second)),
        "recipe": list(_fields(first["recipe"]["resolved"], second["recipe"]["resolved"])),
    }  # fmt: skip


def _row(what: str, unit: str, one: float | None, other: float | None) -> dict[str, Any]:
    change = None if one is None or other is None else other - one
    return {"what": what, "unit": unit, "first": one, "second": other, "change": change}


def _numbers(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model in MODELS:
        one, other = (report["models"].get(model) for report in (first, second))
        if one is None and other is None:
            continue
        for name in dict.fromkeys([*(one or other)["metrics"], *(other or one)["metrics"]]):
            values = [None if own is None else own["metrics"].get(name) for own in (one, other)]
            yield _row(f"{wording.MODELS[model]}, {wording.metric(name)}", "share", *values)
        for key, unit in (("params", "count"), ("bytes", "bytes")):
            yield _row(f"{wording.MODELS[model]}, {key}", unit, *(None if o is None else o[key] for o in (one, other)))
        for key in ("p50", "p95"):
            timed = [None if own is None else (own["latency_ms"] or {}).get(key) for own in (one, other)]
            yield _row(f"{wording.MODELS[model]}, {key}", "ms", *timed)
    for group, key in PLAIN:
        yield _row(f"{group} {wording.metric(key)}", "share", first[group].get(key), second[group].get(key))
    for key in SINGLE:
        yield _row(wording.metric(key), "ratio", first[key], second[key])


def _slices(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    one, other = (report["models"][STUDENT_INT8]["slices"] for report in (first, second))
    rows = [_row(name, "share", one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]
    yield from sorted(rows, key=lambda row: row["change"] if row["change"] is not None else 0.0)


def _gates(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    one, other = ({gate["name"]: gate for gate in report["gates"]} for report in (first, second))
    for name in dict.fromkeys([*one, *other]):
        values = {
            key: None if name not in own else own[name]["passed"] for key, own in (("first", one), ("second", other))
        }
        yield {"name": name, **values}


def _fields(one: Any, other: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Every leaf of the resolved recipes that differs."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            yield from _fields(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
    elif one != other:
        yield {"field": path, "first": one, "second": other}


def shown(value: float | None, unit: str) -> str:
    """A number as people read it, by its unit."""
    if unit == "ms":
        return wording.milliseconds(value)
    forms: Mapping[str, Callable[[float | None], str]] = {
        "share": wording.percent, "bytes": wording.size, "count": wording.count,
    }  # fmt: skip
    return forms[unit](value) if unit in forms else wording.plain(value)


def moved(row: Mapping[str, Any]) -> str:
    """The difference of a row with its sign."""
    change = row["change"]
    if change is None or abs(change) < 5e-4 * abs(row["first"] or 1):
        return wording.DASH if change is None else "="
    if row["unit"] == "share":
        return wording.points(change)
    return f"{'+' if change > 0 else '−'}{shown(abs(change), row['unit'])}"


def page(found: Mapping[str, Any]) -> str:
    """The comparison as one self-contained HTML page."""
    from jobs.after.page import filled

    return filled(TEMPLATE, d=found, shown=shown, moved=moved)


def show(found: Mapping[str, Any], where: Path | None) -> Group:
    """What the terminal prints: what moved, slices that moved most, gates, and the recipe's differences."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table("", found["first"], found["second"], "change", title="side by side", title_justify="left", box=None)
    for row in [*found["rows"], *found["slices"][:5]]:
        if row["first"] is not None or row["second"] is not None:
            values = [shown(row[key], row["unit"]) for key in ("first", "second")]
            table.add_row(escape(row["what"]), *values, moved(row))
    for gate in found["gates"]:
        verdicts = [
            wording.DASH if gate[key] is None else "passed" if gate[key] else "failed" for key in ("first", "second")
        ]
        table.add_row(f"gate {gate['name']}", *verdicts, "=" if verdicts[0] == verdicts[1] else "changed")
    lines = [f"{one['field']}: {one['first']} → {one['second']}" for one in found["recipe"]]
    parts: list[RenderableType] = [
        table,
        Text("\n".join(["the recipes differ in", *(f"  {line}" for line in lines)] if lines else ["same recipe"])),
    ]
    return Group(*parts, *([] if where is None else [whole(f"page: {where}")]))

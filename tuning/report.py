"""The page of a search: self-contained HTML that says what was best, by how much, what mattered and what failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from jobs.after import wording
from jobs.after.page import filled
from jobs.terminal import whole

TEMPLATE = Path(__file__).with_name("report.html.j2")
OBJECTIVES: Mapping[str, Callable[[float | None], str]] = {
    "quality": wording.percent,
    "latency_ms": wording.milliseconds,
    "bytes": wording.size,
}


def render(found: Mapping[str, Any]) -> str:
    """The page of `search.json`'s content."""
    from markupsafe import Markup

    from tuning import plots

    drawn = {name: Markup(text) for name, text in plots.all_plots(found).items()}
    knobs = {name: Markup(text) for name, text in plots.knob_plots(found).items()}
    return filled(
        TEMPLATE,
        r=found,
        plots=drawn,
        knobs=knobs,
        verdict=verdict(found),
        began=began(found),
        finals=finals(found),
        rows=[row(one) for one in found["trials"]],
    )


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: whether the best recipe found beats the one that was given."""
    best, gained = found["best"], found["gain"]
    if best is None:
        return "No trial was finished."
    if best["preset"]:
        return "Nothing that was tried is better than the recipe as it was."
    reached = f"{wording.percent(best['objectives']['quality'])} on {found['rows']} validation rows"
    if found["confirmed"] is None:
        reached = f"The best trial reaches {reached}"
    else:
        reached = (
            f"Trained again with {len(found['confirmed']['seeds'])} other seeds, the best recipe reaches {reached}"
        )
    if gained is None:
        return f"{reached}; the recipe as it was did not finish, so there is nothing to compare with."
    interval = f"95 % interval {wording.points(gained['low'])} to {wording.points(gained['high'])}"
    told = "better than" if gained["verdict"] == "better" else "a tie with"
    return f"{reached}: {told} the recipe as it was ({wording.points(gained['value'])}, {interval})."


def finals(found: Mapping[str, Any]) -> list[str]:
    """A line for every finalist that was trained again, and for each that could not be."""
    confirmed, lines = found["confirmed"], list[str]()
    for one in [] if confirmed is None else confirmed["finalists"]:
        each = ", ".join(wording.percent(quality) for quality in one["qualities"])
        name = f"trial {one['number'] + 1}{' (the recipe as it was)' if one['preset'] else ''}"
        lines.append(f"{name}: {wording.percent(one['objectives']['quality'])} in the mean ({each})")
    return lines + [
        f"trial {one['number'] + 1} failed with seed {one['seed']}: {one['reason']}" for one in found["failed_finals"]
    ]


def began(found: Mapping[str, Any]) -> str:
    """Where the first trials came from, and whether that was worth it: the best of them beside the best that the
    searcher drew."""
    prior = found["prior"]
    if prior is None or not (prior["sources"] or prior["unreadable"]):
        return "Nothing was learned from earlier searches or runs."
    told = [
        f"{one['kind']} {one['name']} ({len(one['points'])} tried first"
        + (f", {one['known']} finished trials of the same students known)" if one["known"] else ")")
        for one in prior["sources"]
    ]
    sentence = f"Learned from {', '.join(told)}." if told else "Nothing was learned from earlier searches or runs."
    if prior["unreadable"]:
        sentence += f" Left out, of another version of this code: {', '.join(prior['unreadable'])}."
    past = [one for one in found["trials"] if one["origin"] is not None]
    if not past:
        return sentence
    drawn = [one for one in found["trials"] if one["origin"] is None and not one["preset"]]
    return (
        f"{sentence} Of {len(past)} trial{'' if len(past) == 1 else 's'} from there the best reaches {_top(past)}, "
        f"of {len(drawn)} that the searcher drew {_top(drawn)}; the recipe as it was "
        f"{_top([one for one in found['trials'] if one['preset']])}."
    )


def _top(trials: Sequence[Mapping[str, Any]]) -> str:
    done = [one["objectives"]["quality"] for one in trials if one["status"] == "done"]
    return wording.percent(max(done)) if done else wording.DASH


def row(one: Mapping[str, Any]) -> dict[str, str]:
    """A trial as the page's table shows it."""
    if one["status"] == "done":
        told = {name: show(one["objectives"][name]) for name, show in OBJECTIVES.items()}
        how = "finished"
    else:
        told = dict.fromkeys(OBJECTIVES, wording.DASH)
        how = _ending(one)
    point = ", ".join(f"{name} {_value(value)}" for name, value in one["point"].items())
    preset = " (the recipe as it was)" if one["preset"] else f" (from {one['origin']})" if one["origin"] else ""
    return {"number": str(one["number"] + 1), **told, "how": how + preset, "point": point,
            "seconds": wording.seconds(one.get("seconds"))}  # fmt: skip


def _ending(one: Mapping[str, Any]) -> str:
    if one["status"] == "stopped":
        return f"stopped at {one['progress']} %, agreement {wording.percent(one['agreement'])}"
    return f"failed: {one['reason']}" if one["status"] == "failed" else "cut by the end of the budget"


def show(found: Mapping[str, Any], folder: Path) -> RenderableType:
    """What the command prints for people."""
    table = Table(
        "trial", "quality", "latency", "bytes", "knobs", title=found["search"], title_justify="left", box=None
    )
    for number in found["front"]:
        own = row(found["trials"][number])
        table.add_row(own["number"], own["quality"], own["latency_ms"], own["bytes"], own["point"])
    lines = [verdict(found), f"trials: {', '.join(f'{count} {name}' for name, count in found['count'].items())}"]
    lines.append(began(found))
    lines += finals(found)
    if found["ties"]:
        lines.append(f"{len(found['ties'])} other trial(s) cannot be told from the best on these rows")
    if found["importance"]:
        lines.append(
            "what mattered: " + ", ".join(f"{name} {share:.0%}" for name, share in found["importance"].items())
        )
    lines += [f"the Pareto front is the table above; page: {folder / 'report.html'}"]
    lines += [f"python -m jobs run {folder / 'best.yaml'}"] if found["best"] is not None else []
    return Group(table, *map(whole, lines))


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

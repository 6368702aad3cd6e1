"""Writes what people read about knobs, steps, commands and exit codes from the code that has them.

`python -m jobs.after.reference` (make docs) rewrites `docs/recipes.md`, `docs/metrics.md`, `docs/http.md`,
`docs/claims.md` and the marked blocks of `README.md`; tests/test_readme.py fails when they differ.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import errors
from cluster.measured import TEACHER
from cluster.recipe import known_recipes, load
from jobs.after import claims, http_page, knobs, metrics_page, wording
from jobs.after.markdown import table

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
APPLICATIONS = ("jobs", "serving", "tuning", "cluster")
HEADLINE = ("exact_match", "accuracy", "one_picture", "two_pictures", "macro_f1")


def documents() -> dict[Path, str]:
    """Every generated file with the content that it should have now."""
    readme = ROOT / "README.md"
    docs = ROOT / "docs"
    pages = {
        docs / "recipes.md": knobs.page(),
        docs / "metrics.md": metrics_page.page(),
        docs / "http.md": http_page.page(),
        docs / "claims.md": claims.page(docs),
    }
    return {readme: filled(readme.read_text(encoding="utf-8")), **pages}


def filled(text: str) -> str:
    """`text` with what lies between `<!-- generated: NAME -->` and `<!-- end -->` written anew.

    Raises KeyError on a block that nobody writes.
    """
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[3]}", text)


def steps() -> str:
    """Table of the verbs: what each does, what it writes, what it reads, and which recipe sections decide it."""
    from jobs.commands import VERBS
    from jobs.pipeline import VERBS as STEPS

    rows = []
    for verb, own in STEPS.items():
        parents = dict.fromkeys(parent.kind for step in own for parent in step.parents)
        sections = dict.fromkeys(name for step in own for name in step.sections)
        cells = (
            verb,
            VERBS[verb],
            ", ".join(step.kind for step in own),
            ", ".join(parents) or "the recipe's rows",
            ", ".join(sections),
        )
        rows.append(cells)
    return table(("step", "does", "writes", "reads", "decided by"), [(f"`{verb}`", *rest) for verb, *rest in rows])


def commands() -> str:
    """Table of every command of the four applications, with its options."""
    import importlib

    rows = []
    for module in APPLICATIONS:
        # By name, so that the direction of imports holds: `tuning` stands to the left of `jobs`.
        app = importlib.import_module(f"{module}.__main__").app
        for name, command in applied(app).items():
            options = [
                option for option in command.params if option.param_type_name == "option" and option.name != "help"
            ]
            arguments = " ".join(
                argument.name.upper() for argument in command.params if argument.param_type_name == "argument"
            )
            rows.append(
                (
                    f"`python -m {module} {name}{' ' * bool(arguments)}{arguments}`",
                    command.help,
                    _spelled(options),
                )
            )
    return table(("command", "does", "options"), rows)


def applied(app: Any) -> Mapping[str, Any]:
    """Name -> command of a typer application; a command of a group goes by both names."""
    import typer.main

    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found |= {name: command} if below is None else {f"{name} {own}": one for own, one in below.items()}
    return found


def exit_codes() -> str:
    """Table of exit codes and the errors that end with them."""
    rows = {0: ["done"]}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.RaydistillError):
            rows.setdefault(kind.exit_code, []).append(f"`{kind.__name__}`")
    means = {
        0: "done",
        1: "failed",
        2: "wrong input, found before Ray starts",
        3: "a gate failed; the report is written first",
    }
    cells = [(str(code), means[code], ", ".join(names) if code else "") for code, names in sorted(rows.items())]
    return table(
        ("exit code", "means", "errors"), [*cells, ("130, 143", "ended by Ctrl-C or SIGTERM; what is done is kept", "")]
    )


def measured() -> str:
    """The headline of a run, from the copy of its report.json in docs/measured.json; one line where there is none."""
    path = ROOT / "docs" / "measured.json"
    if not path.is_file():
        return "No run has been recorded yet (docs/measured.json).\n"
    report = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name in report["models"][TEACHER]["metrics"] if name in HEADLINE]
    rows = [(wording.MODELS[name], *_headline(model, names)) for name, model in report["models"].items()]
    head = ("", *map(wording.metric, names), "parameters", "bytes", "KV bytes per token", "p50", "p95")
    return "\n" + table(head, rows) + "\n" + _told(report) + "\n\n"


def _told(report: Mapping[str, Any]) -> str:
    kept, whole = report["retention"], sum(report["seconds"].values())
    low, high = wording.percent(kept["low"]), wording.percent(kept["high"])
    told = [
        f"{report['rows']:,} test rows, scored by free answers",
        f"retention {wording.percent(kept['value'])} (95 %: {low} to {high})",
        f"INT8 drop {wording.percent(report['int8']['task_drop'], 2)}",
        f"{wording.times(report['speedup'])} faster than the teacher on the same engine",
        f"KV cache {wording.percent(report['kv_share'], 0)} of the unmerged student's",
        f"{wording.seconds(whole)} of work in all steps",
        f"commit {report['commit'][:10]}",
    ]
    return "; ".join(told) + "."


def _headline(model: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    timed = model["latency_ms"] or {"p50": None, "p95": None}
    return [
        *(wording.percent(model["metrics"][name]) for name in names),
        wording.count(model["params"]),
        wording.size(model["bytes"]),
        wording.plain(model["kv_bytes_per_token"]),
        wording.milliseconds(timed["p50"]),
        wording.milliseconds(timed["p95"]),
    ]


def presets() -> str:
    """Table of the recipes that come along."""
    rows = [(name, load(name)) for name in known_recipes()]
    cells = [(f"`{name}`", f"`{one.task}`", one.description) for name, one in rows]
    return table(("recipe", "task", "what it is"), cells)


def targets() -> str:
    """Table of the Makefile's targets."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE)
    return table(("target", "does"), [(f"`make {name}`", does) for name, does in found])


def _spelled(options: list[Any]) -> str:
    return " ".join(f"`{option.opts[0]}`" for option in options)


BLOCKS = {
    "steps": steps, "commands": commands, "exit_codes": exit_codes, "targets": targets, "measured": measured,
    "presets": presets,
}  # fmt: skip


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")

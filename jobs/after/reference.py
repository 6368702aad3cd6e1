"""Writes what people read about knobs, steps, commands and exit codes from the code that has them.

`python -m jobs.after.reference` (make docs) rewrites `docs/recipes.md` and the marked blocks of `README.md`;
tests/test_readme.py fails when they differ.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic_core import PydanticUndefined

from cluster import errors
from cluster.recipe import Recipe, Term
from cluster.recipe.base import Section
from jobs.after import wording

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
RECIPES_HEAD = """\
# Recipe reference

Written by `make docs` from the pydantic models; do not edit.

A recipe is YAML, in `jobs/recipes/` or anywhere; `extends: NAME` lays it over another one, `--set a.b=c` over both.
Unknown keys are refused. Where the default is `-`, the recipe has to say it; `N` is the index of a list's item.
"""
HEADLINE = ("exact_match", "accuracy", "one_picture", "two_pictures", "macro_f1")
ITEM = ".N"  # an item of a list, as in --set distill.stages.0.epochs=3


def documents() -> dict[Path, str]:
    """Every generated file with the content that it should have now."""
    readme = ROOT / "README.md"
    return {readme: filled(readme.read_text(encoding="utf-8")), ROOT / "docs" / "recipes.md": recipes()}


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
    return _table(("step", "does", "writes", "reads", "decided by"), [(f"`{verb}`", *rest) for verb, *rest in rows])


def commands() -> str:
    """Table of every command of the three applications that exist, with its options."""
    from jobs.__main__ import app as jobs_app
    from serving.__main__ import app as serving_app

    rows = []
    for module, app in (("jobs", jobs_app), ("serving", serving_app)):
        for name, command in applied(app).items():
            options = [
                option for option in command.params if option.param_type_name == "option" and option.name != "help"
            ]
            arguments = " ".join(
                argument.name.upper() for argument in command.params if argument.param_type_name == "argument"
            )
            rows.append(
                (f"`python -m {module} {name}{' ' * bool(arguments)}{arguments}`", command.help, _spelled(options))
            )
    return _table(("command", "does", "options"), rows)


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
    return _table(
        ("exit code", "means", "errors"), [*cells, ("130, 143", "ended by Ctrl-C or SIGTERM; what is done is kept", "")]
    )


def measured() -> str:
    """The headline of a run, from the copy of its report.json in docs/measured.json; one line where there is none."""
    path = ROOT / "docs" / "measured.json"
    if not path.is_file():
        return "No run has been recorded yet (docs/measured.json).\n"
    report = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name in report["models"]["teacher"]["metrics"] if name in HEADLINE]
    rows = [(wording.MODELS[name], *_headline(model, names)) for name, model in report["models"].items()]
    head = ("", *map(wording.metric, names), "parameters", "bytes", "KV bytes per token", "p50", "p95")
    return "\n" + _table(head, rows) + "\n" + _told(report) + "\n\n"


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


def targets() -> str:
    """Table of the Makefile's targets."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE)
    return _table(("target", "does"), [(f"`make {name}`", does) for name, does in found])


def recipes() -> str:
    """The whole of docs/recipes.md: one table per section, in the order of the recipe, then the terms' own knobs."""
    lines = [RECIPES_HEAD]
    places: dict[type[pydantic.BaseModel], list[str]] = {}
    for path, section in _sections("", Recipe):
        places.setdefault(section, []).append(f"`{path}`" if path else "Top level")
    for section, paths in places.items():
        lines += [f"## {', '.join(paths)}", "", *_knobs(section)]
    for title, section in _params():
        lines += [f"## {title}", "", *_knobs(section)]
    return "\n".join(lines).rstrip() + "\n"


def _params() -> Iterator[tuple[str, type[Section]]]:
    """The sections that `params` and `views` are checked by, each under a readable title."""
    from jobs.data.filters import FILTERS
    from jobs.data.variants import Views as TextViews
    from jobs.tasks import text_classification, visual_qa
    from jobs.training.losses import LOSSES
    from jobs.training.weighting import RULES
    from serving.models.encoder import EncoderParams
    from serving.models.omni import OmniParams
    from serving.teachers.causal import CausalParams
    from serving.teachers.endpoint import OpenAIParams
    from serving.teachers.vllm import VllmParams

    yield from ((f"`params` of loss `{name}`", loss.params) for name, loss in LOSSES.items())
    yield from ((f"`params` of focus rule `{name}`", rule.params) for name, rule in RULES.items())
    yield from ((f"`params` of filter `{name}`", one.params) for name, one in FILTERS.items())
    yield "`params` of architecture `omni_moe`", OmniParams
    yield "`params` of architecture `encoder`", EncoderParams
    yield "`params` of architecture `causal_lm`", CausalParams
    yield "`params` of architecture `openai`", OpenAIParams
    yield "`params` of architecture `vllm`", VllmParams
    yield "`data.params` of task `visual_qa`", visual_qa.Questions
    yield "`fit.views` and `generate.views` of task `visual_qa`", visual_qa.Views
    yield "`data.params` of task `text_classification`", text_classification.Texts
    yield "`generate.views` of task `text_classification`", TextViews


def _sections(path: str, section: type[pydantic.BaseModel]) -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    yield path, section
    for name, field in section.model_fields.items():
        below = _section(field.annotation)
        if below is not None and below is not Term:
            is_list = typing.get_origin(field.annotation) is list
            yield from _sections(f"{path}.{name}".lstrip(".") + ITEM * is_list, below)


def _section(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The section that a field holds, alone or in a list."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, pydantic.BaseModel):
            return part
    return None


def _knobs(section: type[pydantic.BaseModel]) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        default = "-" if field.is_required() else _default(field.get_default(call_default_factory=True))
        rows.append((f"`{name}`", _type(field.annotation), default, field.description or ""))
    about = " ".join((section.__doc__ or "").split())
    table = _table(("knob", "type", "default", "what"), rows) if rows else "No knobs.\n"
    return [about, "", *table.splitlines(), ""]


def _default(value: Any) -> str:
    if isinstance(value, pydantic.BaseModel):
        return "see below"
    if value is None or value is PydanticUndefined:
        return "null"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`"


def _type(annotation: Any) -> str:
    """A type as a reader of YAML would call it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is types.NoneType:
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "mapping"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "section" if _section(annotation) else "anything")


def _spelled(options: list[Any]) -> str:
    return " ".join(f"`{option.opts[0]}`" for option in options)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


BLOCKS = {"steps": steps, "commands": commands, "exit_codes": exit_codes, "targets": targets, "measured": measured}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")

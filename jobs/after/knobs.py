"""Every knob of a recipe as `docs/recipes.md` shows it, read from the pydantic models that check it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
from pydantic_core import PydanticUndefined

from cluster.recipe import Recipe, Term
from cluster.recipe.base import Section
from jobs.after.markdown import table

RECIPES_HEAD = """\
# Recipe reference

Written by `make docs` from the pydantic models; do not edit.

A recipe is YAML, in `jobs/recipes/` or anywhere; `extends: NAME` lays it over another one, `--set a.b=c` over both.
Unknown keys are refused. Where the default is `-`, the recipe has to say it; `N` is the index of a list's item.
"""
ITEM = ".N"  # an item of a list, as in --set distill.stages.0.epochs=3


def page() -> str:
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
    from jobs.data import moving_digits, picture_views, question_tables
    from jobs.data.filters import FILTERS
    from jobs.data.pictures import Pictures
    from jobs.data.variants import Views as TextViews
    from jobs.tasks import text_classification
    from jobs.tasks.retrieval import Searched
    from jobs.tasks.text_generation.check import Writing
    from jobs.tasks.visual_qa import digits as digit_rows
    from jobs.tasks.visual_qa import media as media_rows
    from jobs.tasks.visual_qa import views as media_views
    from jobs.training.losses import LOSSES
    from jobs.training.students import STARTS
    from jobs.training.weighting import RULES
    from serving.models.decoder import DecoderParams
    from serving.models.encoder import EncoderParams
    from serving.models.image_nets import BACKBONES
    from serving.models.omni import OmniParams
    from serving.teachers.causal import CausalParams
    from serving.teachers.endpoint import OpenAIParams
    from serving.teachers.vllm import VllmParams

    yield from ((f"`params` of loss `{name}`", loss.params) for name, loss in LOSSES.items())
    yield from ((f"`params` of focus rule `{name}`", rule.params) for name, rule in RULES.items())
    yield from ((f"`params` of filter `{name}`", one.params) for name, one in FILTERS.items())
    yield from ((f"`student.init.params` of start `{name}`", one.params) for name, one in STARTS.items())
    yield "`params` of architecture `omni_moe`", OmniParams
    yield "`params` of architecture `encoder`", EncoderParams
    yield "`params` of architecture `decoder`", DecoderParams
    yield from ((f"`params` of architecture `{name}`", one.params) for name, one in BACKBONES.items())
    yield "`params` of architecture `causal_lm`", CausalParams
    yield "`params` of architecture `openai`", OpenAIParams
    yield "`params` of architecture `vllm`", VllmParams
    yield "`data.params` of task `visual_qa`, source `digits`", digit_rows.Questions
    yield "`fit.views` and `generate.views` of task `visual_qa`, source `digits`", digit_rows.Views
    yield "`data.params` of task `visual_qa`, source `table`", media_rows.Tables
    yield "`data.params.columns` of task `visual_qa`, source `table`", question_tables.Columns
    yield "`data.params.joins[]` of task `visual_qa`, source `table`", question_tables.Join
    yield "`data.params` of task `visual_qa`, source `moving_digits`", media_rows.Moving
    yield "`data.params.clips` of task `visual_qa`, source `moving_digits`", moving_digits.Clips
    yield "`fit.views` and `generate.views` of task `visual_qa`, other sources", media_views.Views
    yield "`data.params` of task `text_classification`", text_classification.Texts
    yield "`generate.views` of task `text_classification`", TextViews
    yield "`data.params` of task `text_generation`", Writing
    yield "`data.params` of task `retrieval`", Searched
    yield "`data.params` of task `image_classification`", Pictures
    yield "`fit.views` and `generate.views` of task `image_classification`", picture_views.Views


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
    rendered = table(("knob", "type", "default", "what"), rows) if rows else "No knobs.\n"
    return [about, "", *rendered.splitlines(), ""]


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

"""Prompts out of the recipe's Jinja2 templates, over a row's `text`, `slice` and `seed_row`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Template

from cluster import sandbox
from cluster.canonical import digest

# A template never sees the label: the teacher would only repeat it.


def compiled(templates: Mapping[str, str], at: str = "generate.templates") -> dict[str, Template]:
    """Template by name. Raises RecipeError as `cluster.sandbox.template`, naming the one that cannot be used."""
    example = {"text": "some text", "slice": "all", "seed_row": 0}
    return {name: sandbox.template(source, example, f"{at}.{name}") for name, source in templates.items()}


def fill(template: Template, row: Mapping[str, Any]) -> str:
    """The prompt of one row of the request table. Raises TemplateError where this row's text breaks the template."""
    return template.render(text=row["prompt"], slice=row["slice"], seed_row=row["seed_row"])


def hashes(templates: Mapping[str, str]) -> dict[str, str]:
    """Template name -> sha256 of its source (64 hex), for the manifest."""
    return {name: digest(source) for name, source in templates.items()}

"""Prompts out of Jinja2 templates: sandboxed, because a recipe may come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.canonical import digest
from cluster.errors import RecipeError

# Never the label: the teacher would only repeat it.
KNOWN = ("text", "slice", "seed_row")


def compiled(templates: Mapping[str, str], at: str = "generate.templates") -> dict[str, Template]:
    """Template by name, each tried once on a plain row.

    Raises RecipeError naming the one that does not compile, asks for what a row does not have, or reaches for what the
    sandbox forbids.
    """
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    out = {}
    for name, source in templates.items():
        try:
            out[name] = environment.from_string(source)
            filled = out[name].render(text="some text", slice="all", seed_row=0)
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            got, expected = f"{type(error).__name__}: {error}", f"a Jinja2 template over {', '.join(KNOWN)}"
            raise RecipeError(f"{at}.{name} cannot be filled", got=got, expected=expected) from None
        if not filled.strip():
            raise RecipeError(f"{at}.{name} gives an empty prompt", got=source, expected="text for the teacher")
    return out


def fill(template: Template, row: Mapping[str, Any]) -> str:
    """The prompt of one row of the request table. Raises TemplateError where this row's text breaks the template."""
    return template.render(text=row["prompt"], slice=row["slice"], seed_row=row["seed_row"])


def hashes(templates: Mapping[str, str]) -> dict[str, str]:
    """Template name -> sha256 of its source (64 hex), for the manifest."""
    return {name: digest(source) for name, source in templates.items()}

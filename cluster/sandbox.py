"""Jinja2 that a recipe brings along, in the sandbox: a recipe may come from somebody else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from cluster.errors import RecipeError

if TYPE_CHECKING:
    from jinja2 import Template


def template(source: str, example: Mapping[str, Any], at: str, needs: Collection[str] = ()) -> Template:
    """A template over the names in `example`, tried once on those values.

    Raises RecipeError naming `at`: it does not compile, asks for another name or not for one that it `needs`, reaches
    for what the sandbox forbids, or gives nothing but spaces.
    """
    from jinja2 import StrictUndefined, TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    expected = f"a Jinja2 template over {', '.join(example)}"
    try:
        made = environment.from_string(source)
        filled = made.render(**example)
        missing = sorted(set(needs) - meta.find_undeclared_variables(environment.parse(source)))
    except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise RecipeError(f"{at} cannot be filled", got=f"{type(error).__name__}: {error}", expected=expected) from None
    if missing:
        raise RecipeError(f"{at} does not ask about {missing[0]}", got=source, expected=f"{{{{ {missing[0]} }}}} in it")
    if not filled.strip():
        raise RecipeError(f"{at} gives an empty prompt", got=source, expected="text for the teacher")
    return made


def expression(source: str, names: Collection[str], at: str) -> Callable[..., Any]:
    """A function of keyword arguments `names` that evaluates a Jinja2 expression.

    Raises RecipeError naming `at`: no expression, or another name in it. What the function raises is the row's.
    """
    from jinja2 import StrictUndefined, TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        used = meta.find_undeclared_variables(environment.parse("{{ (" + source + ") }}"))
        compiled = environment.compile_expression(source, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise RecipeError(f"{at}: no Jinja2 expression", got=source, hint=str(error)) from None
    if unknown := sorted(used - set(names)):
        raise RecipeError(f"{at}: unknown column {unknown[0]}", got=source, expected=", ".join(names))
    return compiled

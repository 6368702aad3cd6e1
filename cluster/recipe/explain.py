"""Turns what pydantic or an override found wrong with a recipe into one RecipeError that says where, what and what
instead.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic

from cluster.errors import RecipeError

SHOWN_CHARACTERS = 80


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known key most like `key`, or None where nothing is near (difflib ratio below 0.6)."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return close[0] if close else None


def members(annotation: Any) -> list[Any]:
    """Return what a field may hold: the members of a union without None, else the type itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(annotation) if part is not type(None)]
    return [annotation]


def child(annotation: Any, key: str | int) -> Any:
    """Return the type below `key` of a section, list or dict.

    None where that type has no such key (a section's unknown field).
    """
    found = members(annotation)
    kind = found[0] if len(found) == 1 else Any
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        field = kind.model_fields.get(str(key))
        return None if field is None else field.annotation
    if typing.get_origin(kind) in (list, dict):
        return typing.get_args(kind)[-1]
    return Any


def known_keys(annotation: Any) -> list[str] | None:
    """Return the field names of a section type, or None where keys are free."""
    found = members(annotation)
    is_section = len(found) == 1 and isinstance(found[0], type) and issubclass(found[0], pydantic.BaseModel)
    return list(found[0].model_fields) if is_section else None


def unknown_key(path: Sequence[str | int], known: Sequence[str], source: str = "") -> RecipeError:
    """Return the error for a key that no section has: the full dotted path, the known keys, and the nearest of them."""
    *parents, key = [str(part) for part in path]
    near = nearest(key, known)
    return RecipeError(
        f"unknown key {'.'.join([*parents, key])}{_of(source)}",
        expected="one of " + ", ".join(sorted(known)),
        hint=f"did you mean {'.'.join([*parents, near])}?" if near else None,
    )


def show(value: object) -> str:
    """Return a value and its type on one line of at most about 100 characters."""
    text = repr(value)
    short = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
    return f"{short} ({type(value).__name__})"


def explain(error: pydantic.ValidationError, model: Any, *, at: str = "", source: str = "") -> RecipeError:
    """Return one RecipeError for all that pydantic found; with several findings each gets its own block of lines."""
    prefix = at.split(".") if at else []
    groups: dict[tuple[str | int, ...], list[Any]] = {}
    for finding in error.errors(include_url=False):
        groups.setdefault(_path(model, finding["loc"]), []).append(finding)
    found = [_one(model, prefix, path, group, source) for path, group in groups.items()]
    if len(found) == 1:
        return found[0]
    return RecipeError("\n".join([f"{len(found)} problems{_of(source)}", *(str(one) for one in found)]))


def _one(model: Any, prefix: list[str], path: tuple[str | int, ...], group: list[Any], source: str) -> RecipeError:
    finding, full = group[0], [*prefix, *path]
    name = ".".join(str(part) for part in full) or "the recipe"
    if finding["type"] == "extra_forbidden":
        owner: Any = model
        for part in path[:-1]:
            owner = child(owner, part)
        return unknown_key(full, known_keys(owner) or [], source)
    if finding["type"] == "missing":
        return RecipeError(f"{name} is required{_of(source)}", hint=f"give it in the recipe or by --set {name}=...")
    if finding["type"] == "value_error":
        return RecipeError(f"{name} does not work{_of(source)}", got=show(finding["input"]), expected=_wish(finding))
    wishes = list(dict.fromkeys(_wish(one) for one in group))
    return RecipeError(f"{name} is wrong{_of(source)}", got=show(finding["input"]), expected=" or ".join(wishes))


def _wish(finding: Any) -> str:
    """Return pydantic's message as a noun phrase: "a valid integer", "greater than 0"."""
    return str(finding["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")


def _path(model: Any, location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the location without the tags that pydantic adds for the members of a union."""
    path: list[str | int] = []
    here = model
    parts = list(location)
    while parts:
        if len(members(here)) > 1:
            parts.pop(0)
            here = Any
        if here is Any or not parts:
            return tuple(path + [part for part in parts if isinstance(part, int)])
        path.append(parts.pop(0))
        here = child(here, path[-1])
        if here is None:
            return tuple(path)
    return tuple(path)


def _of(source: str) -> str:
    return f" in {source}" if source else ""

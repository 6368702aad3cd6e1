"""Reads a recipe by name or path, follows `extends`, applies `--set a.b=c`, and hands on one checked Recipe."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import yaml

from cluster.errors import RecipeError
from cluster.recipe.explain import child, known_keys, members, nearest, show, unknown_key

if TYPE_CHECKING:
    from cluster.recipe import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "jobs" / "recipes"
ENDINGS = (".yaml", ".yml")
FLOAT = re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*\.[\d_]*)\Z")
INTEGER = re.compile(r"[-+]?(?:0|[1-9][\d_]*)\Z")  # 010 stays text: YAML 1.1 would read it as eight
BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")


class RecipeLoader(yaml.SafeLoader):
    """YAML as people mean it.

    3e-3 is a number, `no` and `on` are words, a date or 1:30 is text, a key given twice is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises a YAML error on a key that is given twice (PyYAML would keep the last one silently).
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# SafeLoader shares its table of implicit types with every other user of PyYAML, so this one starts empty.
RecipeLoader.yaml_implicit_resolvers = {}
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:bool", BOOLEAN, list("tTfF"))
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]
)
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])


def load(recipe: str, overrides: Sequence[str] = ()) -> "Recipe":
    """Return the checked recipe.

    recipe: a name in `jobs/recipes/`, or a path to a YAML file. overrides: "a.b=c" each, the value read as YAML, list
    items by index (`distill.stages.0.epochs=3`); later ones win. Raises RecipeError: no such recipe, no valid YAML, an
    `extends` cycle, an unknown key or override path (with the nearest known one), a wrong type, a value outside its
    bounds.
    """
    from cluster.recipe import Recipe

    path = _find(recipe, Path.cwd())
    values = _read(path, ())
    for override in overrides:
        _override(values, override, Recipe)
    return Recipe.parse(values, source=path.name)


def changed(recipe: "Recipe", values: Mapping[str, Any]) -> "Recipe":
    """Return the recipe with the values at these dotted paths, checked as a whole.

    Paths are those of `load`'s overrides, values are plain. Raises RecipeError: an unknown path (with the nearest known
    one), a wrong type, a value outside its bounds, sections that do not fit each other.
    """
    plain = recipe.model_dump(mode="json", by_alias=True)
    for path, value in values.items():
        _set(plain, path, value, type(recipe))
    return type(recipe).parse(plain, source=recipe.name)


def known_recipes() -> list[str]:
    """Return the names in `jobs/recipes/`, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml")) if RECIPES.is_dir() else []


def _find(recipe: str, beside: Path) -> Path:
    """Return the file of a name or path; relative paths are relative to the folder `beside`."""
    is_path = recipe.endswith(ENDINGS) or "/" in recipe
    tried = [beside / recipe] if is_path else [beside / f"{recipe}.yaml", RECIPES / f"{recipe}.yaml"]
    if not is_path and beside == Path.cwd():
        tried = tried[1:]  # a name on the command line means jobs/recipes/, whatever lies in the working directory
    for path in tried:
        if path.is_file():
            return path.resolve()
    known = known_recipes()
    near = nearest(Path(recipe).stem, known)
    raise RecipeError(
        f"no recipe {recipe}",
        got=f"no file {tried[-1]}",
        expected="a path to a YAML file or one of " + (", ".join(known) or "(no recipes found)"),
        hint=f"did you mean {near}?" if near else None,
    )


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return the file's values over those it extends; `above` are the files that led here."""
    if path in above:
        chain = " -> ".join(one.name for one in [*above[above.index(path) :], path])
        raise RecipeError(f"recipes extend each other in a circle: {chain}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML", got=" ".join(str(error).split())) from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a recipe", got=show(values), expected="a mapping of sections")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(
            f"extends is wrong in {path.name}", got=show(base), expected="the name or the path of one recipe"
        )
    return _merge(_read(_find(base, path.parent), (*above, path)), values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on it: mappings merge, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str, model: Any) -> None:
    """Set one "a.b=c" in `values`, making what is not written out in the recipe from the sections' defaults."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError("an override has no value", got=override, expected="--set a.b=c")
    try:
        value = yaml.load(text, RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"the value of --set {path} is not valid YAML", got=text, hint=" ".join(str(error).split())
        ) from None
    _set(values, path, value, model)


def _set(values: dict[str, Any], path: str, value: Any, model: Any) -> None:
    """Put `value` at a dotted path of `values`; raises RecipeError when there is no such place."""
    keys = path.strip().split(".")
    here: Any = values
    kind: Any = model
    for position, key in enumerate(keys):
        slot = _slot(here, kind, keys[: position + 1])
        if position == len(keys) - 1:
            here[slot] = value
            return
        if isinstance(here, dict) and here.get(slot) is None:
            here[slot] = _default(kind, key)
        here, kind = here[slot], child(kind, key)


def _slot(here: Any, kind: Any, path: list[str]) -> str | int:
    """Return the key or index that the last part of `path` means in `here`; raises RecipeError when there is none."""
    key, known = path[-1], known_keys(kind)
    if known is not None and key not in known:
        raise unknown_key(path, known)
    if isinstance(here, dict):
        return key
    owner = ".".join(path[:-1])
    if not isinstance(here, list):
        raise RecipeError(
            f"unknown key {'.'.join(path)}", got=f"{owner} = {show(here)}", hint=f"{owner} has nothing below it"
        )
    if not key.isdigit() or int(key) >= len(here):
        raise RecipeError(
            f"unknown item {'.'.join(path)}", got=key, expected=f"an index from 0 to {len(here) - 1} of {owner}"
        )
    return int(key)


def _default(kind: Any, key: str) -> Any:
    """Return what a section holds below `key` when the recipe does not say.

    Plain lists and dicts, {} where there is no default.
    """
    owner = members(kind)[0]
    if not (isinstance(owner, type) and issubclass(owner, pydantic.BaseModel)):
        return {}
    default = owner.model_fields[key].get_default(call_default_factory=True)
    plain = pydantic.TypeAdapter(Any).dump_python(default, exclude_unset=True, mode="python")
    return plain if isinstance(plain, dict | list) else {}

"""Edits of Python source that keep what it does: local names changed, independent neighbouring assignments swapped.

Text that is no Python stays as it is. Only names that a function itself assigns, or takes as positional-only
parameters, are changed: others may be asked for by name from outside (keyword arguments, globals, attributes).
"""

from __future__ import annotations

import ast
import builtins
import keyword

import numpy as np

# Scopes and bindings inside a function that hide where a local is used.
SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Global, ast.Nonlocal, ast.ListComp,
    ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Import, ast.ImportFrom, ast.ExceptHandler, ast.Match,
)  # fmt: skip
# A function that reads its own names at run time would see the change.
READS_NAMES = {"locals", "vars", "eval", "exec", "globals", "dir"}
# In a class the order of assignments may mean something (enumerations, fields).
BLOCKS = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.For, ast.While, ast.With)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def renamed(source: str, rng: np.random.Generator) -> str:
    """The source with the locals of its functions renamed to `v0`, `v1`, ... in a random order.

    The syntax tree stays the same but for those names. Comments and spacing are those of `ast.unparse`.
    """
    tree = _parsed(source)
    if tree is None:
        return source
    taken, changed = _all_names(tree), False
    for function in ast.walk(tree):
        if not isinstance(function, Function) or not _plain(function):
            continue
        names = _locals(function)
        fresh = [name for name in (f"v{number}" for number in range(len(names) + len(taken))) if name not in taken]
        order = rng.permutation(len(names))
        _rename(function, {name: fresh[place] for name, place in zip(names, order, strict=True)})
        changed = changed or bool(names)
    return ast.unparse(tree) if changed else source


def reordered(source: str, rng: np.random.Generator) -> str:
    """The source with one pair of neighbouring assignments swapped that do not read each other.

    Both are of plain names from constants, names and tuples of them: evaluating one cannot change the other.
    """
    tree = _parsed(source)
    if tree is None:
        return source
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, BLOCKS)]
    places = [(body, at) for body in bodies for at in range(len(body) - 1) if _independent(body[at], body[at + 1])]
    if not places:
        return source
    body, at = places[int(rng.integers(len(places)))]
    body[at], body[at + 1] = body[at + 1], body[at]
    return ast.unparse(tree)


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _plain(function: Function) -> bool:
    """No nested scope, no global, nothing that reads names at run time: then a local's every use is in sight."""
    inside = [node for part in function.body for node in ast.walk(part)]
    names = {node.id for node in inside if isinstance(node, ast.Name)}
    return not any(isinstance(node, SCOPES) for node in inside) and not names & READS_NAMES


def _locals(function: Function) -> list[str]:
    arguments = function.args
    own = [one.arg for one in arguments.posonlyargs]
    own += [name.id for name in _body_names(function) if isinstance(name.ctx, ast.Store)]
    asked_by_name = {one.arg for one in (*arguments.args, *arguments.kwonlyargs)}
    asked_by_name |= {one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None}
    return [name for name in dict.fromkeys(own) if name not in asked_by_name]


def _body_names(function: Function) -> list[ast.Name]:
    """Names in the body; those of defaults, decorators and annotations of the header belong to the scope outside."""
    return [node for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)]


def _rename(function: Function, names: dict[str, str]) -> None:
    for name in _body_names(function):
        if name.id in names:
            name.id = names[name.id]
    for argument in function.args.posonlyargs:
        argument.arg = names[argument.arg]


def _all_names(tree: ast.AST) -> set[str]:
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return used | set(dir(builtins)) | set(keyword.kwlist)


def _independent(first: ast.stmt, second: ast.stmt) -> bool:
    one, other = _sides(first), _sides(second)
    if one is None or other is None:
        return False
    (written, read), (also_written, also_read) = one, other
    return written != also_written and written not in also_read and also_written not in read


def _sides(statement: ast.stmt) -> tuple[str, set[str]] | None:
    """Name written and names read by `name = constants, names and tuples of them`; None for any other statement."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target, inside = statement.targets[0], list(ast.walk(statement.value))
    if not isinstance(target, ast.Name):
        return None
    if not all(isinstance(node, ast.Constant | ast.Name | ast.Tuple | ast.expr_context) for node in inside):
        return None
    return target.id, {node.id for node in inside if isinstance(node, ast.Name)}

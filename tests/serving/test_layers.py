"""The packages of serving stand on each other in one order, and no two files import each other in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

SERVING = Path(__file__).resolve().parents[2] / "serving"
# Each imports itself and what stands below it; `bundle` and `engines` are copied into bundles together.
LAYERS = [["__main__"], ["commands"], ["deployment"], ["monitoring"], ["page"], ["experiments"], ["traffic"], ["web"],
          ["fallback"], ["students"], ["seams"], ["teachers"], ["models"], ["bundle", "engines"]]  # fmt: skip
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}
FILES = {".".join(path.relative_to(SERVING).with_suffix("").parts): path for path in sorted(SERVING.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Files of serving that a file imports anywhere, inside functions too, but for those that only types need."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "serving":
            base = (node.module or "").removeprefix("serving").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield next(one for one in (inner, f"{inner}.__init__", base, f"{base}.__init__") if one in FILES)


def test_each_package_imports_itself_and_what_stands_below_it() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        if name != "__init__"
        for other in imported(FILES[name])
        if LAYER[other.partition(".")[0]] < LAYER[name.partition(".")[0]]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: {one for one in imported(path) if one != name} for name, path in FILES.items()}
    left = {name: found for name, found in left.items() if not name.startswith("teachers.")}
    while free := [name for name, found in left.items() if not found & set(left)]:
        for name in free:
            del left[name]
    assert left == {}

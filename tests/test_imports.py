"""Imports go one way, no module has a standard library name, Ray starts in one place, a recipe is light to read."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["tuning", "jobs", "serving", "cluster"]  # each imports only itself and what stands to its right
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PYTHON_FILES = FILES + sorted((ROOT / "tests").rglob("*.py"))

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the first name of every import anywhere in a file, inside functions too; "." for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]


@each_file
def test_imports_go_from_tuning_to_jobs_to_serving_to_cluster(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = FOLDERS[FOLDERS.index(folder) :]
    found = set(imported(ast.parse(path.read_text())))
    assert not found & (set(FOLDERS) - set(allowed)), f"{folder} may import {allowed} only"
    assert "." not in found, "imports are absolute: a file that is moved or copied into a bundle keeps its meaning"
    assert "tests" not in found


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_or_package_carries_a_standard_library_name(path: Path) -> None:
    names = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert not names & set(sys.stdlib_module_names)


def starts_ray(tree: ast.AST) -> bool:
    """Tell whether a file names `ray.init` or imports it from ray."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "init"]
    sources = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "ray"]
    named = any(isinstance(node.value, ast.Name) and node.value.id == "ray" for node in names)
    return named or any(alias.name == "init" for node in sources for alias in node.names)


@each_file
def test_ray_is_started_in_cluster_session_alone(path: Path) -> None:
    assert starts_ray(ast.parse(path.read_text())) == (path == ROOT / "cluster" / "session.py")


def test_there_is_no_package_of_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    "module", ["cluster.recipe", "cluster.errors", "cluster.store", "cluster.registry", "cluster.session"]
)
def test_importing_the_core_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "ray", "transformers", "deepspeed", "mlflow", "onnxruntime", "pyarrow", "numpy"]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

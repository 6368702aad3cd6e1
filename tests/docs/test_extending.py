"""docs/extending.md word by word: its files and lines, put into a copy of the tree, are a loss, a filter, a student, an
engine and a teacher that the product's own commands find, check, train with and export for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.store import Artifact, Store

PAGE = "extending.md"
Written = Callable[[Any, Path], None]


@pytest.fixture
def extended(blocks: Callable[[str], list[Any]], checkout: Path, written: Written) -> Path:
    """The tree with everything that the page adds."""
    for block in blocks(PAGE):
        if block.about:
            written(block, checkout)
    return checkout


def test_every_extension_point_has_a_file_and_its_line(blocks: Callable[[str], list[Any]]) -> None:
    files = [Path(block.about).parent.as_posix() for block in blocks(PAGE) if block.kind == "python"]
    assert files == ["jobs/training/losses", "jobs/data/filters", "serving/models", "serving/engines",
                     "serving/teachers"]  # fmt: skip
    changed = {Path(block.about).parent.as_posix() for block in blocks(PAGE) if block.kind == "diff"}
    assert set(files) <= changed


def test_what_the_page_adds_is_as_clean_as_the_rest(extended: Path, blocks: Callable[[str], list[Any]]) -> None:
    ruff, own = [sys.executable, "-m", "ruff"], [block.about for block in blocks(PAGE) if block.kind == "python"]
    for command in ([*ruff, "check", *own], [*ruff, "format", "--check", *own]):
        done = subprocess.run(command, cwd=extended, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_run(
    extended: Path, blocks: Callable[[str], list[Any]], shell: Callable[..., list[str]]
) -> None:
    commands = [block.text for block in blocks(PAGE) if block.kind == "sh"]
    outputs = shell(commands, extended, 850)
    assert [" passed" in one for one in outputs] == [True, True, False]
    store = Store.open(extended / "runs-mine")
    (bundle,) = store.list("bundle")
    assert bundle.manifest.facts["engine"]["name"] == "reference"
    curated = [one.manifest.facts for one in store.list("curated")]
    assert any("shouting" in facts["reasons"] for facts in curated)
    shares = [history_of(one) for one in store.list("student")]
    assert {"huber_logits"} in shares and {"forward_kl"} in shares
    networks = [json.loads((one.path() / "hf" / "config.json").read_text()) for one in store.list("student")]
    assert "plain" in [config.get("architecture") for config in networks]
    teachers = [json.loads((one.path() / "hf" / "task.json").read_text()) for one in store.list("teacher")]
    assert "keywords" in [task["section"]["architecture"] for task in teachers if "section" in task]


def history_of(student: Artifact) -> set[str]:
    """The losses that a student was trained by."""
    history = json.loads((student.path() / "history.json").read_text())
    return {name for stage in history["stages"] for name in stage["shares"]}

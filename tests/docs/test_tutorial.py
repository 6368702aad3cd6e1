"""docs/tutorial.md word by word, as a new user would type it, in a copy of the tree."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.registry import Registry
from cluster.store import Store
from serving.traffic import verdicts

PAGE = "tutorial.md"
ALONE = ("fit", "generate", "curate", "distill", "export", "evaluate", "promote")  # steps as commands of their own


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_does_what_it_says(
    blocks: Callable[[str], list[Any]], checkout: Path, shell: Callable[..., list[str]], said: Callable[..., list[str]]
) -> None:
    found = blocks(PAGE)
    try:
        outputs = iter(shell([block.text for block in found if block.kind == "sh"], checkout, 1750))
    finally:
        address = checkout / "runs" / "serving" / "address.json"
        if address.is_file():  # a command before `serving down` failed
            subprocess.run([sys.executable, "-m", "serving", "down"], cwd=checkout, check=False, timeout=120)
    output, missing = "", {}
    for block in found:
        if block.kind == "sh":
            output = next(outputs)
        elif block.kind == "text" and (left := said(block.text, output)):
            missing[block.text] = (left, output)
    assert not missing
    store = Store.open(checkout / "runs")
    decided = [(one.version, one.decision) for one in verdicts.read(store, "questions")]
    assert ("3", "rollback") in decided and ("3", "recurate") in decided
    aliases = Registry.beside(store.workspace).aliases("questions")
    assert {"champion", "challenger", "previous", "teacher"} <= set(aliases)
    before = kinds(store)
    shell([f"python -m jobs {verb} small.yaml --json\n" for verb in ALONE], checkout, 300)
    assert kinds(store) == before, "each step alone finds what the run made"
    sheet = filled(next(checkout.glob("runs/curated/*/*/audit.csv")), checkout / "filled.csv")
    assert "100.0 % right" in shell([f"python -m jobs curate-audit {sheet}\n"], checkout, 60)[0]


def kinds(store: Store) -> dict[str, int]:
    """How many artifacts of each kind there are."""
    return {kind: len(store.list(kind)) for kind in ("teacher", "samples", "curated", "student", "bundle", "report")}


def filled(sheet: Path, out: Path) -> Path:
    """An audit sheet by somebody who finds every row right."""
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "right": "yes"} for row in rows)
    return out

"""The whole pipeline with its store in a bucket: one machine runs it, another one finds all of it done and reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import pipeline

ROOT = Path(__file__).resolve().parents[2]
ALONE = "distill.control=false"


@pytest.mark.slow
def test_a_run_into_a_bucket_is_found_by_another_machine(
    s3_uri: str, tmp_path: Path, tiny_overrides: list[str], tiny_digits: Callable[..., Recipe]
) -> None:
    sets = [word for one in [*tiny_overrides, ALONE] for word in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "run", "digits", "--until", "promote", *sets, "--store", s3_uri, "--json"],
        cwd=ROOT, env={**os.environ, "RAYDISTILL_CACHE": str(tmp_path / "here")}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout)
    there = Store.open(s3_uri, cache=tmp_path / "there")
    steps = pipeline.plan(tiny_digits(ALONE), there)
    assert steps and all(step["done"] for step in steps), steps
    assert {step["kind"]: step["id"] for step in steps} == made["artifacts"]
    bundle = there.get("bundle", made["artifacts"]["bundle"])
    assert (bundle.path() / "bundle.json").is_file()  # brought here, and every file's hash is checked
    assert (there.read_record(f"runs/{made['run']}") or {})["artifacts"] == made["artifacts"]

"""The whole pipeline with its store in a bucket: one machine runs it, another one finds all of it done and reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_run_into_a_bucket_is_found_by_another_machine(
    s3_uri: str, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    def asked(machine: str, *words: str, changes: list[str] = tiny_overrides) -> Any:
        """The document of `python -m jobs ...` on a machine, which is a cache of its own."""
        sets = [word for one in changes for word in ("--set", one)]
        done = subprocess.run(
            [sys.executable, "-m", "jobs", *words, *sets, "--store", s3_uri, "--json"],
            cwd=ROOT, env={**os.environ, "RAYDISTILL_CACHE": str(tmp_path / machine)}, text=True, capture_output=True,
            check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    made = asked("here", "run", "digits")
    steps = asked("there", "plan", "digits")["steps"]
    assert all(step["done"] for step in steps), steps
    told = asked("there", "report", changes=[])
    assert told["run"] == made["run"] and told["retention"]["value"] >= 0
    assert {step["kind"]: step["id"] for step in steps}["bundle"] == told["artifacts"]["bundle"]

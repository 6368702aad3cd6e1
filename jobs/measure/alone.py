"""Starts `fresh.py` for one bundle: the same measure for the cost table and, under limits, for small devices."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.measure import fresh
from jobs.measure.latency import PERCENTILES

TIMEOUT_S = 300


class Ended(RuntimeError):
    """The process ended without an answer; says how."""


def answer(
    code: Path, bundle: Path, items: Sequence[Mapping[str, Any]], cpus: int | None = None, memory: int | None = None
) -> dict[str, Any]:
    """What `fresh.main` prints of `bundle`, answered by the code that lies in the folder `code`; times as percentiles.

    `cpus` and `memory` (bytes) limit the process. Raises Ended when it does not come to an end.
    """
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order.json"
        engine, _ = engine_of(bundle)
        asked = {
            "bundle": str(bundle),
            "engine": engine,
            "items": [dict(item) for item in items],
            "cpus": cpus,
            "memory_bytes": memory,
        }
        order.write_text(json.dumps(asked, default=lambda value: {"base64": base64.b64encode(value).decode()}))
        environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
        if memory is not None:  # helper threads of numpy's algebra reserve memory that no bundle uses
            environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", fresh.__file__, str(order)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise Ended(f"no answer within {TIMEOUT_S} s") from None
    if done.returncode:
        raise Ended(_how(done))
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    took = told.pop("took_ms")
    told["latency_ms"] = {f"p{p}": float(np.percentile(took, p)) for p in PERCENTILES}
    return told | {"cpu_share": told["cpu_ms"] / float(np.mean(took)), "requests_per_s": 1000 / float(np.mean(took))}


def engine_of(bundle: Path) -> tuple[str, str]:
    """Name (of the library that is imported) and version of the engine that a bundle's description pins."""
    about = json.loads((bundle / "bundle.json").read_text())["engine"]
    return about["name"], about["version"]


def _how(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that the process said, or the signal that ended it."""
    said = done.stderr.strip().splitlines()
    signal = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"{signal}: {said[-1][:200]}" if said else signal

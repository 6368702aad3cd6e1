"""200,000 short texts with planted repeats: the text filters' speed, the near-duplicate filter beside datatrove's.

Speeds are rows per CPU second of one thread, so that whatever else runs here does not count.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.data.filters import FILTERS, Filter, Rows
from jobs.data.filters.minhash import Index, Shape

HERE = Path(__file__).parent
PEER = Path(os.environ.get("RAYDISTILL_PEERS", "/tmp/peers")) / "datatrove" / "bin" / "python"
ROWS = 200_000
MEMORY_ROWS = (50_000, 200_000, 1_000_000)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def grown() -> ModuleType:
    """The builder of texts, and its data; skips where that is not here."""
    spec = importlib.util.spec_from_file_location("grown", HERE / "grown.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.DATA.is_dir():
        pytest.skip(f"no texts in {module.DATA}")
    return module


@pytest.fixture(scope="module")
def texts(grown: ModuleType) -> tuple[list[str], list[int]]:
    """200,000 texts and the number of the original that each is or repeats."""
    own: list[str] = []
    groups: list[int] = []
    for block_texts, block_groups in grown.blocks(ROWS, 0):
        own += block_texts
        groups += block_groups
    return own, groups


def test_the_near_duplicate_filter_beside_datatrove(
    grown: ModuleType, texts: tuple[list[str], list[int]], tmp_path: Path, record: Callable[..., None]
) -> None:
    own, groups = texts
    started = time.process_time()
    index = Index(Shape())
    index.add(own)
    twin, _ = index.repeats()
    speed = len(own) / (time.process_time() - started)
    recall, precision = grown.found(groups, (twin >= 0).astype(float))
    if not PEER.is_file():
        pytest.skip(
            f"no datatrove in {PEER.parents[1]}: python3.11 -m venv there, pip install 'datatrove[processing]' spacy"
        )
    peer = beside_datatrove(own, tmp_path)
    dropped = np.zeros(len(own))
    dropped[peer["dropped"]] = 1
    peer_recall, peer_precision = grown.found(groups, dropped)
    peer_speed = len(own) / peer["cpu_s"]
    record(
        "curate.near_duplicate.speed", "near duplicates of 200k short texts, rows per CPU second", speed, "rows/s",
        peer="datatrove 0.10.1", peer_value=peer_speed, bar=">= 10x the peer", passed=speed >= 10 * peer_speed,
        peer_steps_cpu_s=peer["steps"], bands=index.bands, hashes_per_band=index.width, rows=len(own),
    )  # fmt: skip
    for name, value, other in (("recall", recall, peer_recall), ("precision", precision, peer_precision)):
        record(
            f"curate.near_duplicate.{name}", f"{name} on 20k planted near duplicates of 200k", value, "share",
            peer="datatrove 0.10.1", peer_value=other, bar="no worse", passed=value >= other,
        )  # fmt: skip
    assert speed >= 10 * peer_speed
    assert recall >= peer_recall and precision >= peer_precision


def beside_datatrove(own: list[str], folder: Path) -> dict[str, Any]:
    """CPU seconds and dropped places of datatrove's steps over the same texts."""
    (folder / "texts.json").write_text(json.dumps(own))
    command = [str(PEER), str(HERE / "peer_datatrove.py"), str(folder / "texts.json"), str(folder / "work")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_all_text_filters(grown: ModuleType, texts: tuple[list[str], list[int]], record: Callable[..., None]) -> None:
    own, _ = texts
    rows = as_rows(own, pq.read_table(grown.DATA / "banking77_test.parquet")["text"].to_pylist())
    spent, refused = {}, {}
    for name in ("schema_length", "pii", "duplicate", "near_duplicate", "contradiction", "decontaminate"):
        entry = FILTERS[name]
        assert isinstance(entry, Filter)
        started = time.process_time()
        verdicts = entry.function(rows, entry.params())
        spent[name] = time.process_time() - started
        refused[name] = sum(reason is not None for reason in verdicts.reasons)
    record(
        "curate.text_filters.speed", "all six text filters over 200k short texts, rows per CPU second",
        len(own) / sum(spent.values()), "rows/s", rows_per_s={name: len(own) / value for name, value in spent.items()},
        refused=refused,
    )  # fmt: skip


def as_rows(own: list[str], held: list[str]) -> Rows:
    """Samples of these prompts with one answer, and the requests of a test split."""

    def table(texts: list[str], prefix: str) -> pa.Table:
        count = len(texts)
        return pa.table(
            {
                "sample_id": [f"{prefix}{place:015x}" for place in range(count)], "prompt": texts,
                "images": pa.nulls(count, pa.list_(pa.binary())), "parent": pa.nulls(count, pa.string()),
                "response": ["answer"] * count,
            }
        )  # fmt: skip

    return Rows(table(own, "a"), np.zeros((len(own), 1), np.float32), None, {"test": table(held, "b")})


def test_peak_memory_of_the_near_duplicate_index(grown: ModuleType, record: Callable[..., None]) -> None:
    peaks = {}
    for count in MEMORY_ROWS:
        command = [sys.executable, str(HERE / "grown.py"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks[count] = json.loads(done.stdout)
        record(
            f"curate.near_duplicate.peak_rss.{count}", f"peak memory of a process that streams {count:,} rows",
            peaks[count]["peak_mib"], "MiB", **peaks[count],
        )  # fmt: skip
    small, large = peaks[MEMORY_ROWS[1]], peaks[MEMORY_ROWS[2]]
    per_row = (large["peak_mib"] - small["peak_mib"]) * 2**20 / (large["rows"] - small["rows"])
    record(
        "curate.near_duplicate.bytes_per_row", "memory that a further row of the index takes, 200k to 1M rows",
        per_row, "bytes",
    )  # fmt: skip
    assert per_row > 0

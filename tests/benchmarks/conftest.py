"""Writes what the benchmarks measured into docs/benchmarks.json, one record per row, and the table beside it."""

import datetime
import fcntl
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.session import commit
from jobs.after import claims

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLUMNS = (
    "id", "what", "ours", "unit", "peer", "peer_value", "ratio", "bar", "passed", "machine", "command", "date", "commit"
)  # fmt: skip


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Merge one row: `record(id, what, ours, unit, peer=, peer_value=, bar=, passed=, **details)`.

    `ratio` is ours over the peer's; a row without a bar has `passed` null. Details go into the JSON alone.
    """
    command = f"pytest {request.node.path.relative_to(DOCS.parent)}::{request.node.originalname}"

    def write(name: str, what: str, ours: float, unit: str, **more: Any) -> None:
        peer_value = more.pop("peer_value", None)
        row = {
            "id": name, "what": what, "ours": ours, "unit": unit, "peer": more.pop("peer", None),
            "peer_value": peer_value, "ratio": ours / peer_value if peer_value else None, "bar": more.pop("bar", None),
            "passed": more.pop("passed", None), "machine": machine(), "command": command,
            "date": datetime.date.today().isoformat(), "commit": commit(), "details": more,
        }  # fmt: skip
        merge(DOCS, row)

    return write


def machine() -> str:
    """The processor by its name and the cores that this process may use."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _cpuinfo() -> Sequence[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def merge(folder: Path, row: dict[str, Any]) -> None:
    """Put the row in place of the one with its id, and rewrite the table; safe beside another benchmark's writing."""
    file = folder / "benchmarks.json"
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        rows = json.loads(file.read_text()) if file.is_file() else []
        rows = sorted([one for one in rows if one["id"] != row["id"]] + [row], key=lambda one: str(one["id"]))
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        (folder / "benchmarks.md").write_text(table(rows))
        (folder / "claims.md").write_text(claims.page(folder))
    finally:
        os.close(folder_fd)  # gives the lock back


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page of all records; what missed its bar is named first."""
    lines = ["# Benchmarks", "", "Written by `make bench`; the same rows with details are in `benchmarks.json`.", ""]
    missed = [_miss(row) for row in rows if row["passed"] is False]
    lines += ["Bars that were missed:", "", *missed, ""] if missed else []
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _miss(row: dict[str, Any]) -> str:
    beside = f" ({_cell(row['ratio'])}x of {row['peer']})" if row["ratio"] else ""
    return f"- `{row['id']}`, {row['what']}: {_cell(row['ours'])} {row['unit']}{beside}, wanted {row['bar']}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")

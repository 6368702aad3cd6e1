"""What was decided about a served model, with its numbers: rows of the store's `verdicts`, read by `jobs watch`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cluster.store import Store, tables

TABLE = "verdicts"
Kind = Literal["drift", "experiment", "agreement", "srm", "canary", "manual"]
Decision = Literal["promote", "hold", "rollback", "recurate", "none"]


@dataclass(frozen=True)
class Verdict:
    """One decision (`cluster.schema` "verdicts"): `at` in ms since 1970, UTC; `drop` relative to `reference`; `rows`
    judged requests; `detail` the numbers behind it (e-values, requests per arm, intervals)."""

    at: int
    kind: Kind
    model: str
    version: str
    metric: str
    decision: Decision
    value: float | None = None
    reference: float | None = None
    drop: float | None = None
    rows: int = 0
    window_start: int | None = None
    window_end: int | None = None
    slice: str | None = None
    experiment: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    request_ids: Sequence[str] = ()
    verdict_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def row(self) -> dict[str, Any]:
        """The verdict as a row of the table."""
        ids = list(self.request_ids) or None
        return asdict(self) | {"detail": json.dumps(dict(self.detail), allow_nan=False), "request_ids": ids}


def of_row(row: Mapping[str, Any]) -> Verdict:
    """The verdict that `row` was made of."""
    read = {"detail": json.loads(row["detail"] or "{}"), "request_ids": row["request_ids"] or ()}
    return Verdict(**{**row, **read})


def append(store: Store, verdict: Verdict) -> None:
    """Write one verdict; it is there for every reader when this returns."""
    tables.append(store, TABLE, verdict.model, [verdict.row()], verdict.at)


def read(store: Store, model: str, since_ms: int = 0) -> list[Verdict]:
    """All verdicts about a model, oldest first, those written at `since_ms` or later."""
    found = [of_row(row) for row in tables.read(store, TABLE, model, since_ms).to_pylist()]
    return sorted(found, key=lambda one: (one.at, one.verdict_id))

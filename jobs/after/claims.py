"""Writes docs/claims.md: what the field claims, the setting in which it was tried here, and the figure that came out.

Every row reads a record of docs/benchmarks.json by its id, or the run in docs/measured.json; nothing is typed in. A row
whose benchmark has not run says so, and one that is not reached says by how much.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.measured import STUDENT_INT8, TEACHER

DOCS = Path(__file__).resolve().parents[2] / "docs"
Records = Mapping[str, Mapping[str, Any]]
Run = Mapping[str, Any]
Found = tuple[float, str]  # the figure, and the setting it was measured in


@dataclass(frozen=True)
class Claim:
    """A published figure: `says` it in words, `least` as a number in `unit` (share, x or points), and `measure` finds
    ours in the records or the run, None where it was not measured. `points` may be lost: the more the worse."""

    says: str
    least: float
    unit: str
    measure: Callable[[Records, Run | None], Found | None]


def of(identifier: str) -> Callable[[Records, Run | None], Found | None]:
    """The figure of one benchmark record."""

    def measure(records: Records, run: Run | None) -> Found | None:
        row = records.get(identifier)
        return None if row is None else (float(row["ours"]), str(row["what"]))

    return measure


def best(*identifiers: str) -> Callable[[Records, Run | None], Found | None]:
    """The largest figure of those records that are there."""

    def measure(records: Records, run: Run | None) -> Found | None:
        found = [one for one in (of(identifier)(records, run) for identifier in identifiers) if one is not None]
        return max(found) if found else None

    return measure


def without_loss(records: Records, run: Run | None) -> Found | None:
    """Speed of the INT8 student over the teacher, where the student keeps NO_LOSS of the teacher's accuracy: a faster
    student that loses more says nothing about the claim."""
    found = []
    for row in records.values():
        name, _, kind = str(row["id"]).rpartition(".")
        kept = records.get(f"{name}.retention")
        if kind == "faster" and kept is not None and kept["ours"] >= NO_LOSS:
            found.append((float(row["ours"]), f"{row['what']}, {kept['ours']:.1%} of the teacher's accuracy"))
    return max(found) if found else None


def of_run(key: Callable[[Run], float], setting: Callable[[Run], str]) -> Callable[[Records, Run | None], Found | None]:
    """A figure of the measured run."""

    def measure(records: Records, run: Run | None) -> Found | None:
        return None if run is None else (key(run), setting(run))

    return measure


def _setting(run: Run) -> str:
    teacher, student = (run["models"][kind]["params"] for kind in (TEACHER, STUDENT_INT8))
    return f"{run['recipe']['name']}: {teacher:,} -> {student:,} parameters, INT8, {run['rows']:,} test rows"


def _kept(run: Run) -> float:
    return float(run["retention"]["value"])


def _accuracy(run: Run) -> float:
    return float(run["models"][STUDENT_INT8]["metrics"][run["primary_metric"]])


def _fewer(records: Records, run: Run | None) -> Found | None:
    """The share of parameters saved by students that keep 95 % of their teacher's accuracy."""
    found = []
    for row in records.values():
        share = (row["details"] or {}).get("share_of_parameters")
        if share is not None and str(row["id"]).endswith(".retention") and row["ours"] >= ENOUGH:
            found.append((1.0 - float(share), f"{row['what']}, {row['ours']:.1%} of its accuracy"))
    return max(found) if found else None


NO_LOSS, ENOUGH = 0.99, 0.95
CLAIMS: Sequence[Claim] = (
    Claim("1.5x faster at no loss of accuracy", 1.5, "x", without_loss),
    Claim("multimodal accuracy kept above 95 %", 0.95, "share", of_run(_accuracy, _setting)),
    Claim("90 % fewer parameters at >= 95 % retention", 0.9, "share", _fewer),
    Claim("model 85 % smaller", 0.85, "share", best("text.banking77.smaller", "text.clinc150.smaller")),
    Claim("96.8 % of the teacher's score", 0.968, "share", of_run(_kept, _setting)),
    Claim("1.2M -> 86K parameters", 1_200_000 / 86_000, "x", of("images_1.2m_to_86k")),
    Claim("25.6M -> 9.1M parameters at -0.8 points", 0.8, "points", of("images_25.6m_to_9.1m")),
    Claim("epochs 1.75x faster from cached logits", 1.75, "x", of("speed.cached_epoch")),
)


def rows(records: Records, run: Run | None) -> list[tuple[str, str, str, str]]:
    """Per claim: what it says, our setting, ours, and whether it is reached or by how much not."""
    out = []
    for claim in CLAIMS:
        found = claim.measure(records, run)
        if found is None:
            out.append((claim.says, "its benchmark has not run", "–", "not measured"))
            continue
        ours, setting = found
        gap = claim.least - ours if claim.unit == "points" else ours - claim.least
        verdict = "reached" if gap >= 0 else f"{_figure(abs(gap), claim.unit)} short"
        out.append((claim.says, setting, _figure(ours, claim.unit), verdict))
    return out


def _figure(value: float, unit: str) -> str:
    return {"share": f"{value:.1%}", "x": f"{value:.2f}x", "points": f"{value:.2f} points"}[unit]


def page(folder: Path) -> str:
    """The Markdown page from the records and the run in `folder`."""
    benchmarks, measured = folder / "benchmarks.json", folder / "measured.json"
    records = {row["id"]: row for row in json.loads(benchmarks.read_text())} if benchmarks.is_file() else {}
    run = json.loads(measured.read_text()) if measured.is_file() else None
    head = ["# Claims of the field, and what came out here", ""]
    head += ["Written by `python -m jobs.after.claims` from `benchmarks.json` and `measured.json`.", ""]
    table = ["| claim | our setting | ours | |", "| --- | --- | --- | --- |"]
    table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(records, run)]
    return "\n".join([*head, *table]) + "\n"


def main() -> None:
    """Rewrite docs/claims.md."""
    (DOCS / "claims.md").write_text(page(DOCS))


if __name__ == "__main__":
    main()

"""The audit sheet: rows drawn at random for a person to judge, and what the filled-in sheet says about the rest.

A person fills the column `right` of `audit.csv` with yes or no; `read` turns it into a share with its interval.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.errors import DataError
from jobs.after import wording
from jobs.measure.shares import wilson

SHEET = "audit.csv"
COLUMNS = ("sample_id", "prompt", "pictures", "response", "label_name", "right")
YES, NO = ("yes", "y", "1", "true", "right"), ("no", "n", "0", "false", "wrong")


@dataclass(frozen=True)
class Audit:
    """Rows judged and right, rows left blank, and the share right with its 95 % Wilson interval (all 0 to 1)."""

    judged: int
    right: int
    blank: int
    accuracy: float
    low: float
    high: float


def write(folder: Path, kept: pa.Table, rows: int, seed: int) -> None:
    """Write `rows` of the kept samples, drawn without replacement, to `audit.csv`, their pictures beside it.

    The same samples and seed give the same sheet; with `rows` 0 there is none.
    """
    if not rows:
        return
    rng = np.random.default_rng([seed, kept.num_rows])
    drawn = np.sort(rng.permutation(kept.num_rows)[:rows])
    columns = ["sample_id", "prompt", "images", "image_format", "response", "label_name"]
    with (folder / SHEET).open("w", newline="", encoding="utf-8-sig") as file:  # the mark: spreadsheets read UTF-8
        sheet = csv.DictWriter(file, COLUMNS)
        sheet.writeheader()
        for row in kept.select(columns).take(drawn).to_pylist():
            pictures = _pictures(folder, row["sample_id"], row["images"] or (), row["image_format"])
            told = {name: _text(row[name]) for name in ("sample_id", "prompt", "response", "label_name")}
            sheet.writerow(told | {"pictures": " ".join(pictures), "right": ""})


def _text(value: str | None) -> str:
    """A cell; one that a spreadsheet would run as a formula gets an apostrophe in front."""
    text = value or ""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _pictures(folder: Path, sample_id: str, images: list[bytes] | tuple[bytes, ...], kind: str | None) -> list[str]:
    names = []
    for place, image in enumerate(images):
        (folder / "audit").mkdir(exist_ok=True)
        names.append(f"audit/{sample_id}-{place}.{kind}")
        (folder / names[-1]).write_bytes(image)
    return names


def read(path: Path) -> Audit:
    """What a filled-in sheet says. Blank rows are left out of the share; any of yes/no, y/n, 1/0, true/false,
    right/wrong is understood.

    Raises DataError: no such sheet, no such column, a mark that is none of these, or no row filled in.
    """
    if not path.is_file():
        raise DataError("no audit sheet there", got=str(path), expected="the audit.csv of a curated artifact")
    marks = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        sheet = csv.DictReader(file)
        if "right" not in (sheet.fieldnames or ()):
            raise DataError(f"{path} is no audit sheet", got=sheet.fieldnames, expected="a column named right")
        for number, row in enumerate(sheet, 1):
            mark = (row["right"] or "").strip().lower()
            if mark and mark not in (*YES, *NO):
                raise DataError(f"{path}: row {number}, column right", got=mark, expected="yes, no or nothing")
            marks.append(mark)
    judged = [mark in YES for mark in marks if mark]
    if not judged:
        raise DataError(f"{path}: no row is filled in", expected="yes or no in the column right")
    low, high = wilson(sum(judged), len(judged))
    share = sum(judged) / len(judged)
    return Audit(len(judged), sum(judged), len(marks) - len(judged), share, low, high)


def told(audit: Audit) -> str:
    """One line for people."""
    low, high = wording.percent(audit.low), wording.percent(audit.high)
    share = f"{wording.percent(audit.accuracy)} right (95 % interval {low} to {high})"
    return f"{share}: {audit.right} of {audit.judged} judged rows, {audit.blank} left blank"

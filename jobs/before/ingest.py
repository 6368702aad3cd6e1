"""The command `import`: request logs, CSV, Parquet, JSONL or a folder of pictures become seed rows with splits.

Hands on one folder: train.parquet, validation.parquet, test.parquet, dead_letters.parquet (file, row, reason, detail)
and, written last, import.json with the summary.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.canonical import file_digest
from cluster.errors import DataError, InputError
from cluster.recipe.explain import nearest
from jobs.before import logs, pictures, privacy, seeds
from jobs.before.seeds import SPLITS, Found, Seed, Shares
from jobs.data import cells, readers, tabular
from jobs.data import pictures as table_pictures
from jobs.data.readers import DeadLetter
from jobs.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.terminal import Terminal

RESPONSE = "response"  # --label response: the logged answer is the label
SUMMARY = "import.json"
FEW = 0.2  # different answers per row, below which answers look like labels
TEXT_COLUMNS = ("text", "label", "label_name", "system", "messages", "response", "model", "finish_reason")


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; a column that is None was not named (then `text` and, where it is there, `label`)."""

    files: Sequence[str]
    out: str
    text: str | None = None
    label: str | None = None
    pii: privacy.Policy = "keep"
    shares: Shares = field(default_factory=lambda: Shares(0.1, 0.1, 0))


def own_folder(source: str) -> str:
    """Where a source is imported to when nobody says: imported/NAME below the working directory."""
    return str(Path("imported") / Path(source).expanduser().resolve().stem)


def command(terminal: Terminal, wanted: Wanted) -> None:
    """Import, and say what there is and what to type next. Raises InputError."""
    summary = bring(wanted)
    terminal.answer(summary, lambda console: _show(console, summary))


def bring(wanted: Wanted) -> dict[str, Any]:
    """Read, apply the policy for personal data, split, write; returns the summary that `import.json` holds too.

    The same files with the same seed write the same rows; more files never move a row to another split. Raises
    InputError: no such file or column, a policy or shares that cannot be, or no row left for training or for test.
    """
    _check(wanted)
    found = _read(wanted)
    known = len(found.rows) + len(found.dead)
    found, personal = privacy.apply(found, wanted.pii)
    parts, unknown = seeds.divide(found.rows, wanted.shares)
    dead = [*found.dead, *unknown]
    _refuse_empty(parts, dead)
    out = Path(wanted.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    (out / SUMMARY).unlink(missing_ok=True)
    rows = [row for split in SPLITS for row in parts[split]]
    columns = _columns(rows)
    for split in SPLITS:
        _write(out / f"{split}.parquet", [_plain(row, columns) for row in parts[split]], columns)
    letters = [{"file": one.file, "row": one.row, "reason": one.reason, "detail": one.detail} for one in dead]
    _write(out / "dead_letters.parquet", letters, ("file", "row", "reason", "detail"))
    summary = {
        "out": str(out), "read": known, "rows": {split: len(parts[split]) for split in SPLITS},
        "labels": dict(Counter(row.label for row in rows if row.label is not None).most_common()),
        "unlabelled": sum(row.label is None for row in rows), "repeats": seeds.repeats(rows),
        "dead_letters": dict(Counter(one.reason for one in dead)), "pii": {"policy": wanted.pii, "found": personal},
        "seed": wanted.shares.seed, "sources": _hashes(wanted.files), **_next(out, rows, len(parts["validation"])),
    }  # fmt: skip
    (out / SUMMARY).write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def _check(wanted: Wanted) -> None:
    shares = wanted.shares
    if min(shares.validation, shares.test) < 0 or shares.validation + shares.test >= 1:
        got = f"--validation-share {shares.validation}, --test-share {shares.test}"
        raise InputError("no rows would be left for training", got=got, expected="shares from 0, together below 1")
    if wanted.pii not in privacy.POLICIES:
        near = nearest(wanted.pii, privacy.POLICIES)
        hint = f"did you mean {near}?" if near else None
        raise InputError("--pii", got=wanted.pii, expected=", ".join(privacy.POLICIES), hint=hint)


def _read(wanted: Wanted) -> Found:
    """All files in the order given. Raises DataError when folders and files are mixed, or one cannot be read."""
    paths = [Path(name).expanduser() for name in wanted.files]
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        got = f"{len(folders)} folders and {len(paths) - len(folders)} files"
        raise DataError("pictures and texts are imported one by one", got=got, expected="folders only, or files only")
    if folders:
        return _together([pictures.read(folder) for folder in folders])
    for path in paths:
        readers.find(path)
    logged = [path for path in paths if wanted.text is None and logs.is_log(path)]
    parts = [_table(path, wanted) for path in paths if path not in logged]
    if logged:
        found = logs.read(logged)
        parts.append(_labelled(found) if wanted.label == RESPONSE else found)
    return _together(parts)


def _together(parts: Sequence[Found]) -> Found:
    return Found([row for one in parts for row in one.rows], [letter for one in parts for letter in one.dead])


def _labelled(found: Found) -> Found:
    """Log rows with their answer as label; a row without a whole answer has none."""
    rows = []
    for row in found.rows:
        answer = row.response if row.finish_reason != "length" else None
        label = answer.strip() or None if answer is not None else None
        rows.append(replace(row, label=label))
    return Found(rows, found.dead)


def _table(path: Path, wanted: Wanted) -> Found:
    """Rows of a Parquet, CSV or JSONL file; a label that is null leaves its row unlabelled."""
    text, label = wanted.text or "text", wanted.label or "label"
    required = {"text": text} | ({"label": label} if wanted.label is not None else {})
    try:
        raw = readers.read(path, required, [label, tabular.NAME_COLUMN])
    except DataError as error:
        raise _about_columns(error, required) from None
    rows, dead = [], list(raw.dead)
    for place, number in enumerate(raw.numbers):
        values = {name: column[place] for name, column in raw.columns.items()}
        try:
            key = _label(values.get(label))
            name = cells.name_of(values[tabular.NAME_COLUMN]) if tabular.NAME_COLUMN in values else None
            rows.append(Seed(path.name, number, cells.text_of(values[text]), label=key, label_name=name))
        except cells.CellError as bad:
            dead.append(DeadLetter(path.name, number, bad.reason, bad.detail))
    return Found(rows, dead)


def _label(value: Any) -> str | None:
    """A label cell as text; None where it is empty. Raises CellError where it is no label (a list)."""
    return None if cells.is_null(value) else cells.key_of(value)


def _about_columns(error: DataError, required: Mapping[str, str]) -> DataError:
    """The reader's error with this command's own options in its hint."""
    for option, column in required.items():
        if error.expected == column:
            near = nearest(column, str(error.got).split(", "))
            hint = f"did you mean {near!r}? then --{option} {near}" if near else f"name the column by --{option} COLUMN"
            return DataError(error.what, got=error.got, expected=column, hint=hint)
    return error


def _refuse_empty(parts: Mapping[str, Sequence[Seed]], dead: Sequence[DeadLetter]) -> None:
    for split in ("train", "test"):
        if not parts[split]:
            sizes = ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
            reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in dead).items())
            hint = "give more rows, or another --seed, --test-share or --validation-share"
            got = f"{sizes}; set aside: {reasons or 'none'}"
            raise DataError(f"no row is left for {split}", got=got, expected="rows in train and test", hint=hint)


def _columns(rows: Sequence[Seed]) -> tuple[str, ...]:
    """Columns to write, the same for all splits: the text or picture and the label always, others where known."""
    if any(row.image is not None for row in rows):
        return ("image", "image_format", "label", "file", "row")
    known = [name for name in TEXT_COLUMNS[2:] if any(getattr(row, name) is not None for row in rows)]
    return ("text", "label", *known, "file", "row")


def _plain(row: Seed, columns: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in columns}


def _write(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write aside, then put in place: a reader never sees half a file."""
    kinds = {"row": pa.int64(), "image": pa.binary()}
    fields = [pa.field(name, kinds[name] if name in kinds else pa.string()) for name in columns]
    aside = path.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), aside, compression="zstd")
    aside.replace(path)


def _hashes(files: Sequence[str]) -> dict[str, str | None]:
    """Source -> sha256 (64 hex); null for a folder."""
    paths = [Path(name).expanduser() for name in files]
    return {str(path): file_digest(path) if path.is_file() else None for path in paths}


def _next(out: Path, rows: Sequence[Seed], validation: int) -> dict[str, str | None]:
    """`next`: the command that goes on from here, tried as far as reading its data; else null, and `needs` says why."""
    task = "text_classification" if rows[0].image is None else "image_classification"
    named = ["train", *(["validation"] if validation else []), "test"]
    values = {"source": "table"} | {split: str(out / f"{split}.parquet") for split in named}
    if all(row.label is None for row in rows):
        different = len({row.response for row in rows} - {None})
        answers = sum(row.response is not None for row in rows)
        few = f"{different} different answers in {answers} rows look like labels: --label response"
        hint = few if 1 < different <= FEW * answers else "--label COLUMN, or fill in the column `label`"
        hint = hint if rows[0].image is None else "pictures in folders named by their label"
        return {"next": None, "needs": f"labels: {task} learns from labelled rows ({hint})"}
    from cluster.recipe import DataSection

    section = DataSection.parse(values)
    try:
        if rows[0].image is None:
            tabular.read(section, seed=0)
        else:
            table_pictures.rows(section, table_pictures.Pictures(), seed=0)
    except DataError as error:
        return {"next": None, "needs": str(error)}
    sets = " ".join(f"--set data.{split}={shlex.quote(values[split])}" for split in named)
    source = "" if rows[0].image is None else "--set data.source=table "
    return {"next": f"python -m jobs run {task} {source}{sets}", "needs": None}


def _show(console: Console, summary: Mapping[str, Any]) -> None:
    def listed(counts: Mapping[str, int]) -> str:
        shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:8])
        return shown + (f" and {len(counts) - 8} more" if len(counts) > 8 else "") or "none"

    lines = {
        "rows": listed(summary["rows"]) + f" of {summary['read']} read, {summary['repeats']} of them repeats",
        "labels": listed(summary["labels"]) + f"; {summary['unlabelled']} rows without",
        "set aside": listed(summary["dead_letters"]),
        "personal data": f"{summary['pii']['policy']}; found: " + (
            "not looked for" if summary["pii"]["policy"] == "keep" else listed(summary["pii"]["found"])
        ),
        "written to": summary["out"],
    }  # fmt: skip
    for name, text in lines.items():
        say(console, f"{name:<14}{text}")
    after = f"next          {summary['next']}" if summary["next"] else f"it needs      {summary['needs']}"
    say(console, after)

"""Shows what is inside a run's soft labels: the text beside its likeliest tokens, and whether every check holds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.errors import ArtifactMissing, StepFailed
from cluster.store import Artifact, Store
from jobs.data.labels import checks, reader
from jobs.terminal import say

LIKELIEST = 5  # tokens shown per position
WIDTH = 60  # characters of a prompt


def inspect(store: Store, run: str, rows: int) -> dict[str, Any]:
    """The first `rows` rows with their likeliest tokens, bytes per token, and the problems found in all rows.

    Checksums of every file are checked on the way (raises ArtifactCorrupt). `run` is a run's name or latest; raises
    ArtifactMissing when there is none, or when it has no samples yet.
    """
    name, record = _record(store, run)
    if "samples" not in record["artifacts"]:
        raise ArtifactMissing("samples", name, hint="run it until generate")
    samples = store.get("samples", record["artifacts"]["samples"])
    folder = samples.path()
    decode = _decoder(store.get("teacher", record["artifacts"]["teacher"]))
    shown: list[dict[str, Any]] = []
    for asked, labels in reader.stream(folder, max(1, rows)):
        pairs = zip(asked.to_pylist(), labels.to_pylist(), strict=True)
        shown += [_row(sample, label, decode) for sample, label in itertools.islice(pairs, rows - len(shown))]
        if len(shown) >= rows:
            break
    found = checks.problems(folder)
    return {
        "run": name, "samples": samples.id, "identity": samples.manifest.facts["identity"],
        "bytes_per_token": reader.sizes(folder / reader.LABELS), "checksums": "right", "problems": found, "rows": shown,
    }  # fmt: skip


def show(console: Console, document: dict[str, Any]) -> None:
    """The document of `inspect` for people."""
    table = Table("sample", "prompt", "answer", "token", "entropy", "likeliest at T=1", box=None)
    for row in document["rows"]:
        for place, position in enumerate(row["positions"]):
            first = place == 0
            likeliest = "  ".join(f"{one['text']!r} {one['probability']:.3f}" for one in position["likeliest"])
            about = (row["sample_id"], row["prompt"][:WIDTH], row["response"]) if first else ("", "", "")
            table.add_row(*(escape(str(one)) for one in (*about, position["token"], position["entropy"], likeliest)))
    say(console, table)
    size = document["bytes_per_token"]
    say(console, f"bytes per token on disk: labels {size['label']:g}, hidden states {size['hidden']:g}")
    for problem in document["problems"]:
        say(console, Text("✗ ", "red").append(problem, "default"))
    if not document["problems"]:
        right = "checksums, lengths, ids, draws, masses and entropies of all rows"
        say(console, Text("✓ ", "green").append(right, "default"))


def refuse_problems(document: dict[str, Any]) -> None:
    """Raise StepFailed naming the first problem of the document of `inspect`, if there is one."""
    if document["problems"]:
        reason = f"{len(document['problems'])} problems in samples {document['samples']}: {document['problems'][0]}"
        raise StepFailed("labels inspect", reason, "remove the artifact and run generate again")


def _record(store: Store, run: str) -> tuple[str, dict[str, Any]]:
    names = [name.removeprefix("runs/") for name in store.records("runs/")]
    if run == "latest":
        ages = {name: (store.workspace / "records" / "runs" / f"{name}.json").stat().st_mtime for name in names}
        run = max(ages, key=lambda name: ages[name]) if ages else run
    record = store.read_record(f"runs/{run}") if run in names else None
    if record is None:
        raise ArtifactMissing("run", run, hint=f"known runs: {', '.join(names) or 'none'}")
    return run, record


def _decoder(teacher: Artifact) -> Callable[[int], str]:
    """Index -> text: class names where the teacher classifies, its tokenizer's tokens where it writes."""
    folder = teacher.path() / "hf"
    spec = json.loads((folder / "task.json").read_text())
    if "labels" in spec:
        names = list(spec["labels"])
        return lambda index: str(names[index])
    return _tokens(folder)


def _tokens(folder: Path) -> Callable[[int], str]:
    from serving.bundle import answer

    tokenizer = answer.read_tokenizer(folder)
    return lambda index: tokenizer.decode([index]) or str(tokenizer.id_to_token(index))


def _row(sample: dict[str, Any], label: dict[str, Any], decode: Callable[[int], str]) -> dict[str, Any]:
    positions = []
    starts = np.cumsum([0, *(label["entries"] or ())])
    for place, mass in enumerate(checks.masses(label)):
        ids = np.arange(len(mass)) if label["ids"] is None else np.asarray(label["ids"][starts[place] :][: len(mass)])
        best = np.argsort(-mass, kind="stable")[:LIKELIEST]
        likeliest = [
            {"id": int(ids[one]), "text": decode(int(ids[one])), "probability": round(float(mass[one]), 4)}
            for one in best
        ]
        token = label["tokens"][place] if label["tokens"] is not None else int(ids[best[0]])
        entropy = round(float(label["entropy"][place]), 3)
        positions.append({"token": decode(int(token)), "entropy": entropy, "likeliest": likeliest})
    return {name: sample[name] for name in ("sample_id", "prompt", "response", "confidence")} | {"positions": positions}

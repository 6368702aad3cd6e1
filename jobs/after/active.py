"""Active learning: the rows that a model is least sure of, spread over the data, as a sheet for a person to fill in.

`jobs.before.sheets` reads the sheet back.
Shape legend: R rows, Q scored positions, V classes or vocabulary, E embedding size.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import ArtifactMissing, DataError, InputError, MismatchError
from jobs.terminal import say
from serving.bundle.answer import softmax

if TYPE_CHECKING:
    from cluster.store import Store
    from jobs.tasks import Task
    from jobs.terminal import Terminal

POOL = 5  # candidates per row of the sheet, of which the spread is chosen
MEASURES = ("entropy", "margin", "committee")
MODELS = ("teacher", "student")
BATCH_ROWS = 256
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that starts so


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: rows of the sheet (count), the measure of doubt, whose doubt, and the folder."""

    run: str
    rows: int
    by: str
    who: str
    out: str | None


def command(terminal: Terminal, wanted: Wanted, store: Store) -> None:
    """Write `sheet.csv`, `sheet.parquet` and pictures of the rows worth a person's time.

    Raises InputError, and ArtifactMissing where the run has no samples (or, for `student` and `committee`, no student).
    """
    for option, value, known in (("--by", wanted.by, MEASURES), ("--who", wanted.who, MODELS)):
        if value not in known:
            raise InputError(option, got=value, expected=", ".join(known))
    if wanted.rows < 1:
        raise InputError("--rows", got=wanted.rows, expected="1 or more")
    document = _sheet(wanted, store)
    lines = [f"{document['rows']} of {document['candidates']} rows without a true label, by {wanted.by}",
             f"sheet {document['csv']}", f"then  {document['next']}"]  # fmt: skip
    terminal.answer(document, lambda console: say(console, "\n".join(lines)))


def _sheet(wanted: Wanted, store: Store) -> dict[str, Any]:
    from cluster.recipe import Recipe
    from jobs import tasks

    record = run_record(store, wanted.run)
    folder = store.get("samples", _made(record, "samples")).path()
    samples, labels = unlabelled(*(pq.read_table(folder / f"{name}.parquet") for name in ("samples", "soft_labels")))
    task = tasks.of(Recipe.parse(record["recipe"]))
    student = None
    if wanted.who == "student" or wanted.by == "committee":
        student = str(store.get("student", _made(record, "student")).path() / "hf")
    doubt = doubts(task, samples, labels, wanted.by, student)
    pool = most_doubtful(samples["sample_id"].to_pylist(), doubt, POOL * wanted.rows)
    near = task.embeddings(samples.take(pool))
    chosen = pool[spread(near, min(wanted.rows, len(pool)))]
    out = Path(wanted.out or f"{record['run']}-sheet").expanduser()
    write_sheet(samples.take(chosen), doubt[chosen], out)
    sheet = out / "sheet.csv"
    return {
        "run": record["run"], "rows": len(chosen), "candidates": len(samples), "by": wanted.by, "csv": str(sheet),
        "parquet": str(out / "sheet.parquet"), "sample_ids": samples["sample_id"].take(chosen).to_pylist(),
        "next": f"fill in `label`, then python -m jobs run RECIPE --set curate.labels={sheet}",
    }  # fmt: skip


def run_record(store: Store, run: str) -> Mapping[str, Any]:
    """The record of a run by its name, or of the one whose samples were made last.

    Raises ArtifactMissing naming the runs there are.
    """
    found = {name.removeprefix("runs/"): store.read_record(name) for name in store.records("runs/")}
    records = {name: record for name, record in found.items() if record is not None}
    if run in records:
        return records[run]
    if run == "latest":
        order = {artifact.id: place for place, artifact in enumerate(store.list("samples"))}
        made = [one for one in records.values() if "samples" in one["artifacts"]]
        if made:
            return max(made, key=lambda one: order[one["artifacts"]["samples"]])
    raise ArtifactMissing("run", run, hint=f"looked in {store.root}; runs there: {', '.join(records) or 'none'}")


def _made(record: Mapping[str, Any], kind: str) -> str:
    if kind not in record["artifacts"]:
        raise ArtifactMissing(kind, record["run"], hint="run the step that writes it first")
    return str(record["artifacts"][kind])


def unlabelled(samples: pa.Table, labels: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows without a true label, and their soft labels, both in the order of `sample_id`.

    Raises DataError when every row has one: then there is nothing to ask a person.
    """
    rows = samples.filter(pc.is_null(samples["label_name"])).sort_by("sample_id")
    if not len(rows):
        raise DataError("every row has a true label already", got=f"{len(samples)} labelled rows",
                        expected="rows or views that only the teacher answered")  # fmt: skip
    own = labels.take(pc.index_in(rows["sample_id"].combine_chunks(), labels["sample_id"].combine_chunks()))
    return rows, own


def doubts(task: Task, samples: pa.Table, labels: pa.Table, by: str, student: str | None) -> np.ndarray:
    """How unsure per row, float64 [R], larger is less sure: of the teacher, or of the `student` folder where given.

    entropy: H(p) in nats; margin: 1 - (p1 - p2), the gap of the two likeliest (Scheffer et al. 2001); committee: the
    Jensen-Shannon divergence of teacher and student in nats (McCallum and Nigam 1998, KL to the mean with two
    members). Each is the mean over an answer's positions. Raises MismatchError when teacher and student answer over
    different classes, or a teacher kept no soft labels to compare.
    """
    from jobs.tasks import soft_labels

    if student is None:
        own: np.ndarray = samples["entropy"].to_numpy() if by == "entropy" else 1 - soft_labels.margins(labels)
        return own.astype(np.float64)
    columns = task.pack(samples, labels, true_labels=False)
    q_QV, row_Q = _student(task, student, columns, len(samples))
    if by == "committee":
        p_QV = softmax(np.concatenate([np.asarray(row, np.float32) for row in labels["logits"].to_pylist()])
                       .reshape(-1, int(labels["vocabulary"][0].as_py())))  # fmt: skip
        if p_QV.shape != q_QV.shape:
            raise MismatchError(
                "teacher and student answer over different classes", got=q_QV.shape, expected=p_QV.shape
            )
        measured = jensen_shannon(p_QV, q_QV)
    elif by == "entropy":
        measured = entropy(q_QV)
    else:
        top = np.partition(q_QV, -2, axis=-1)
        measured = 1 - (top[:, -1] - top[:, -2])
    mean: np.ndarray = np.bincount(row_Q, measured, len(samples)) / np.bincount(row_Q, minlength=len(samples))
    return mean


def _student(task: Task, folder: str, columns: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The student's probabilities float64 [Q, V] at T=1, and the row of each position [Q]."""
    import torch

    network = task.load(folder).eval()
    probabilities, rows = [], []
    with torch.inference_mode():
        for start in range(0, count, BATCH_ROWS):
            own = np.arange(start, min(start + BATCH_ROWS, count))
            logits_QV, _ = task.scored(network, task.batch(columns, own))
            probabilities.append(softmax(logits_QV.float().numpy()))
            rows.append(np.repeat(own, [task.positions(columns, own[i : i + 1]) for i in range(len(own))]))
    return np.concatenate(probabilities).astype(np.float64), np.concatenate(rows)


def entropy(p_QV: np.ndarray) -> np.ndarray:
    """H(p) = -sum p log p of each row, in nats, float64 [Q]."""
    total: np.ndarray = -(p_QV * np.log(np.maximum(p_QV, 1e-12))).sum(-1)
    return total


def jensen_shannon(p_QV: np.ndarray, q_QV: np.ndarray) -> np.ndarray:
    """H((p + q) / 2) - (H(p) + H(q)) / 2 of each row, in nats, from 0 to log 2, float64 [Q]."""
    p, q = p_QV.astype(np.float64), q_QV.astype(np.float64)
    divergence: np.ndarray = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return divergence.clip(0.0)  # rounding leaves -1e-17 where they agree


def most_doubtful(sample_ids: Sequence[str], doubt_R: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest doubts, largest first; equal ones in the order of `sample_id`."""
    return np.lexsort((np.asarray(sample_ids), -doubt_R))[:count]


def spread(unit_RE: np.ndarray, count: int) -> np.ndarray:
    """Places of `count` rows that cover the others best: greedy k-centre on the cosine distance, the first row first.

    Each next row is the one farthest from all chosen (Gonzalez 1985; as core set in Sener and Savarese 2018,
    arXiv:1708.00489); the first of equals. Rows are unit vectors float32 [R, E].
    """
    chosen = [0]
    distance_R = 1 - unit_RE @ unit_RE[0]
    distance_R[0] = -np.inf
    while len(chosen) < count:
        place = int(np.argmax(distance_R))
        chosen.append(place)
        distance_R = np.minimum(distance_R, 1 - unit_RE @ unit_RE[place])
        distance_R[place] = -np.inf
    return np.array(chosen)


def write_sheet(samples: pa.Table, doubt_R: np.ndarray, out: Path) -> None:
    """`sheet.csv` and `sheet.parquet`: sample_id, text, image (paths below the folder), teacher_answer, confidence,
    doubt and an empty `label`; pictures as files in `images/`."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for sample, doubt in zip(samples.to_pylist(), doubt_R.tolist(), strict=True):
        names = []
        for place, data in enumerate(sample["images"] or ()):
            names.append(f"images/{sample['sample_id']}_{place}.{sample['image_format']}")
            (out / "images").mkdir(exist_ok=True)
            (out / names[-1]).write_bytes(data)
        rows.append({"sample_id": sample["sample_id"], "text": sample["prompt"], "image": ";".join(names) or None,
                     "teacher_answer": sample["response"], "confidence": sample["confidence"], "doubt": doubt,
                     "label": None})  # fmt: skip
    kinds = {"confidence": pa.float32(), "doubt": pa.float64()}
    fields = [pa.field(name, kinds[name] if name in kinds else pa.string()) for name in rows[0]]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), out / "sheet.parquet")
    with (out / "sheet.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """A value as a spreadsheet takes it for text. `sample_id` and `label`, which are read back, never start so."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

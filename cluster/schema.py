"""The Arrow schema of every table that one step hands to the next: the unit of every column, one version for all.

Nothing is matched by position: every table of the pipeline is keyed by `sample_id`, the hash of the request (template,
seed row, teacher, generation temperature, draw, seed), what serving writes by `request_id` and `verdict_id`. Lists are
flattened row-major; their shape is said in `unit` with P positions, V vocabulary, E entries, L layers, H hidden size.
pyarrow is imported at the first use, so that a recipe can be read without it.
"""

import functools
from typing import TYPE_CHECKING, Any

from cluster.errors import ArtifactMismatch

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 3
VERSION_KEY = "raydistill.schema_version"

# Per column: Arrow type as text, nullable, unit, meaning.
_Column = tuple[str, bool, str, str]

_REQUESTS: dict[str, _Column] = {
    "sample_id": ("string", False, "16 hex characters", "hash of the request, never of the answer"),
    "split": ("string", False, "train, validation or test", "split of the seed row; views never cross it"),
    "slice": ("string", False, "name", "group that metrics and sampling weights are given for"),
    "template": ("string", True, "name", "template the prompt was made from"),
    "prompt": ("string", True, "text", "what the teacher is asked; for classification the text itself"),
    "images": ("list<binary>", True, "encoded files", "pictures in the order in which the prompt names them"),
    "image_format": ("string", True, "png or jpeg", "encoding of every picture of the row"),
    "audio": ("binary", True, "WAV file, one channel of 16 bits", "the sound that the prompt is about"),
    "frames": ("list<binary>", True, "encoded files", "pictures of a video, in order"),
    "fps": ("float32", True, "frames per second", "of the video; null without one"),
    "label": ("int32", True, "index", "true class; null where the answer is free text"),
    "label_name": ("string", True, "text", "true class by name, or the true answer"),
    "seed_row": ("int64", False, "row number", "row of the labelled data the request comes from"),
    "parent": ("string", True, "sample_id", "unaugmented request that this one is a view of"),
    "view": ("int32", False, "count", "number of the view; 0 is the row as it is"),
    "draw": ("int32", False, "count", "number of the answer asked for the same request"),
    "temperature": ("float32", False, "unitless", "temperature of generation; 0 is greedy"),
    "seed": ("int64", False, "seed", "seed of the row's own random stream"),
}

_SAMPLES: dict[str, _Column] = {
    **_REQUESTS,
    "response": ("string", True, "text", "the teacher's answer, or its class by name; null unless status is ok"),
    "confidence": ("float32", True, "probability", "largest class probability, or exp(mean token log-probability)"),
    "entropy": ("float32", True, "nats", "teacher entropy at T=1, mean over positions"),
    "status": ("string", False, "ok or rejected", "whether there is an answer"),
    "reason": ("string", True, "name", "why there is none"),
    "teacher": ("string", False, "artifact id or name", "who answered"),
    "attempts": ("int32", False, "count", "times the teacher was asked"),
}

_SOFT_LABELS: dict[str, _Column] = {
    "sample_id": ("string", False, "16 hex characters", "row of the samples"),
    "positions": ("int32", False, "count", "P: answer tokens; 1 for classes"),
    "vocabulary": ("int32", False, "count", "V: tokens or classes"),
    "form": ("string", False, "dense, sampled, top_k or top_k_sampled", "which tokens have a logit (jobs/data/labels)"),
    "temperature": ("float32", False, "unitless", "T that the draws were made at, and of the columns named _t"),
    "draws": ("int32", False, "count", "draws per position; 0 where nothing is drawn"),
    "logits": ("list<float16>", False, "[P x V] or [E] log-odds at T=1", "minus the largest of their position"),
    "ids": ("list<int32>", True, "[E] token ids", "entries, ascending within a position; null when dense"),
    "entries": ("list<int32>", True, "[P] count", "entries of every position, E together; null when dense"),
    "counts": (
        "list<int32>",
        True,
        "[E] draws",
        "draws that fell on the entry; 0: kept exactly, as one of the likeliest",
    ),
    "log_sum_exp": ("list<float32>", True, "[P] nats", "of the logits at T=1; null when dense"),
    "log_sum_exp_t": ("list<float32>", True, "[P] nats", "of the logits over T; null at T=1 and when dense"),
    "tail": ("list<float32>", True, "[P] probability", "mass beyond the likeliest at T=1; null in forms without them"),
    "tail_t": ("list<float32>", True, "[P] probability", "the same at T; null at T=1"),
    "tokens": ("list<int32>", True, "[P] token ids", "the teacher's answer; null for classes"),
    "entropy": ("list<float16>", False, "[P] nats", "teacher entropy at T=1"),
    "hidden": ("list<int8>", True, "[P x L x H] times hidden_scale", "hidden states of the recipe's L layers"),
    "hidden_scale": ("list<float32>", True, "[P x L]", "feature value of one int8 step at each position"),
}

_CURATION: dict[str, _Column] = {
    "sample_id": ("string", False, "16 hex characters", "row of the samples"),
    "kept": ("bool", False, "", "whether the student learns from it"),
    "reason": ("string", True, "name", "why it was refused; null when kept"),
    "filter": ("string", True, "name", "filter that refused it; null when kept"),
    "score": ("float32", True, "the filter's own", "what that filter measured; null when kept or nothing is measured"),
    "twin": ("string", True, "sample_id", "row that it repeats or comes too near to, where the filter knows one"),
    "confidence": ("float32", True, "probability", "as in the samples"),
    "entropy": ("float32", True, "nats", "as in the samples"),
    "margin": ("float32", True, "probability", "largest minus second largest, mean over positions"),
    "difficulty": ("float32", True, "0 to 1", "rank for a curriculum; 1 is hardest"),
}

_DEAD_LETTERS: dict[str, _Column] = {
    "sample_id": (
        "string",
        False,
        "16 hex characters, or row:N",
        "row set aside; its number where no request could be made",
    ),
    "step": ("string", False, "name", "step that set it aside"),
    "reason": ("string", False, "name", "kind of failure, counted in the manifest"),
    "detail": ("string", True, "text", "the error's message"),
    "attempts": ("int32", False, "count", "times it was tried"),
}

# Feedback comes later than the answer: a second row of the same request with nulls elsewhere (last non-null wins).
_TRAFFIC: dict[str, _Column] = {
    "request_id": ("string", False, "text", "the request; rows with the same one are parts of one record"),
    "at": ("int64", False, "ms since 1970, UTC", "when this row was written"),
    "unit": ("string", True, "salted hash", "who the split is by; never the raw key"),
    "experiment": ("string", True, "name", "experiment that chose the arm"),
    "arm": ("string", True, "champion, challenger, teacher...", "who was asked"),
    "model": ("string", True, "name", "registered model"),
    "version": ("string", True, "number", "its version"),
    "prompt": ("string", True, "text", "what was asked"),
    "images": ("list<binary>", True, "encoded files", "pictures of the request, where they are kept"),
    "audio": ("binary", True, "WAV file", "sound of the request, where it is kept"),
    "frames": ("list<binary>", True, "encoded files", "pictures of its video, where they are kept"),
    "fps": ("float32", True, "frames per second", "of the video"),
    "answer": ("string", True, "text", "what was answered"),
    "confidence": ("float32", True, "probability", "of the answer"),
    "fell_back": ("bool", True, "", "whether the teacher answered instead"),
    "reason": ("string", True, "name", "why it fell back"),
    "latency_ms": ("float32", True, "ms", "from the request's arrival to its answer"),
    "teacher_answer": ("string", True, "text", "what the teacher says, where it was asked"),
    "shadow_arm": ("string", True, "name", "who was asked beside, unseen by the user"),
    "shadow_answer": ("string", True, "text", "what that one says"),
    "label": ("string", True, "text", "the true answer, from feedback"),
    "reward": ("float32", True, "the application's own", "from feedback"),
    "judged": ("bool", True, "", "whether the answer was right; null: nobody knows yet"),
}

_VERDICTS: dict[str, _Column] = {
    "verdict_id": ("string", False, "text", "the verdict"),
    "at": ("int64", False, "ms since 1970, UTC", "when it was reached"),
    "kind": ("string", False, "drift, experiment, agreement, srm, canary or manual", "what judged"),
    "experiment": ("string", True, "name", "experiment it is about"),
    "model": ("string", False, "name", "registered model"),
    "version": ("string", False, "number", "version it is about"),
    "metric": ("string", False, "name", "what was measured"),
    "value": ("float32", True, "the metric's own", "measured in the window"),
    "reference": ("float32", True, "the metric's own", "the same at promotion, or of the other arm"),
    "drop": ("float32", True, "share of the reference", "relative drop; below 0: it rose"),
    "rows": ("int64", False, "count", "judged requests of the window"),
    "window_start": ("int64", True, "ms since 1970, UTC", "first moment of the window"),
    "window_end": ("int64", True, "ms since 1970, UTC", "last moment of the window"),
    "slice": ("string", True, "name", "part of the traffic it is about; null: all"),
    "decision": ("string", False, "promote, hold, rollback, recurate or none", "what is to be done"),
    "detail": ("string", True, "JSON", "e-values, requests per arm, interval"),
    "request_ids": ("list<string>", True, "request_id", "the hard requests among them"),
}

COLUMNS: dict[str, dict[str, _Column]] = {
    "requests": _REQUESTS,
    "samples": _SAMPLES,
    "soft_labels": _SOFT_LABELS,
    "curation": _CURATION,
    "dead_letters": _DEAD_LETTERS,
    "traffic": _TRAFFIC,
    "verdicts": _VERDICTS,
}


@functools.cache
def schema(name: str) -> "pa.Schema":
    """Return the Arrow schema of a table; each field's metadata has `unit` and `meaning`.

    Raises KeyError on an unknown table.
    """
    import pyarrow as pa

    fields = [
        pa.field(column, _type(text), nullable=nullable, metadata={"unit": unit, "meaning": meaning})
        for column, (text, nullable, unit, meaning) in COLUMNS[name].items()
    ]
    return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def check(table: "pa.Table", name: str) -> None:
    """Raise ArtifactMismatch naming the first column that is missing, of another type, or null where it may not be.

    Further columns are allowed: a step may carry its own. A table without the version key passes, one with another
    version does not.
    """
    check_version(table, name)
    for field in schema(name):
        if field.name not in table.column_names:
            raise ArtifactMismatch(name, f"column {field.name}", got="no such column", expected=field.type)
        column = table[field.name]
        if column.type != field.type:
            raise ArtifactMismatch(name, f"column {field.name}", got=column.type, expected=field.type)
        if column.null_count and not field.nullable:
            raise ArtifactMismatch(name, f"column {field.name}", got=f"{column.null_count} nulls", expected="none")


def check_version(table: "pa.Table", name: str) -> None:
    """Raise ArtifactMismatch when the table says that it is of another schema version; one that says none passes."""
    version = (table.schema.metadata or {}).get(VERSION_KEY.encode())
    if version is not None and version.decode() != str(SCHEMA_VERSION):
        raise ArtifactMismatch(name, "schema_version", got=version.decode(), expected=SCHEMA_VERSION)


def conform(table: "pa.Table", name: str) -> "pa.Table":
    """Return the table with exactly the schema's columns, order, types and metadata.

    Absent nullable columns become null.

    Safe casts only (large_string to string, int64 to int32 where it fits). Raises ArtifactMismatch naming the column.
    """
    import pyarrow as pa

    columns = []
    for field in schema(name):
        if field.name in table.column_names:
            columns.append(_cast(table[field.name], field, name))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
        if columns[-1].null_count and not field.nullable:
            missing = field.name not in table.column_names
            raise ArtifactMismatch(
                name, f"column {field.name}", got="no such column" if missing else "nulls", expected=field.type
            )
    return pa.table(columns, schema=schema(name))


def _cast(column: Any, field: Any, name: str) -> Any:
    import pyarrow as pa

    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ArtifactMismatch(
            name, f"column {field.name}", got=f"{column.type}: {error}", expected=field.type
        ) from None


def _type(text: str) -> Any:
    """Return the Arrow type of "int32", "list<float16>" and the like."""
    import pyarrow as pa

    if text.startswith("list<"):
        return pa.list_(_type(text[len("list<") : -1]))
    return pa.bool_() if text == "bool" else getattr(pa, text)()

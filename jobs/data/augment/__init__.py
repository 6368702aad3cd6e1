"""Edge noise by name: what a camera, a microphone or a hurried thumb does to an input before the student sees it.

A kind is a pure function of (value, params, generator) that keeps the value's shape and type; a new kind is one file
and one line here. `augmented` turns requests into further ones that name their parent, each to be answered by the
teacher.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import Term
from jobs.data.augment import (
    audio_noise,
    brightness,
    clips,
    entity_replacement,
    gaussian_noise,
    occlusion,
    time_jitter,
    time_shift,
    typos,
    words,
)
from jobs.data.augment.params import Augmentation
from serving.bundle import sounds

# Medium -> column of the requests that holds it: encoded pictures, a WAV file, a clip's encoded frames, text.
COLUMNS = {"image": "images", "audio": "audio", "clip": "frames", "text": "prompt"}


@dataclass(frozen=True)
class Kind:
    """A kind of noise: its medium, its function (uint8 [H, W] or [H, W, C], of a clip K of them [K, ...], int16 [N], or
    str) and its parameters."""

    medium: str
    function: Callable[[Any, Any, np.random.Generator], Any]
    params: type[Augmentation]


AUGMENTATIONS: dict[str, Kind] = {
    "gaussian_noise": Kind("image", gaussian_noise.gaussian_noise, gaussian_noise.Params),
    "brightness": Kind("image", brightness.brightness, brightness.Params),
    "occlusion": Kind("image", occlusion.occlusion, occlusion.Params),
    "clip_noise": Kind("clip", gaussian_noise.gaussian_noise, gaussian_noise.Params),
    "clip_brightness": Kind("clip", brightness.brightness, brightness.Params),  # one factor for all frames
    "clip_occlusion": Kind("clip", clips.occluded, occlusion.Params),
    "time_jitter": Kind("clip", time_jitter.time_jitter, time_jitter.Params),
    "time_shift": Kind("audio", time_shift.time_shift, time_shift.Params),
    "audio_noise": Kind("audio", audio_noise.audio_noise, audio_noise.Params),
    "typos": Kind("text", typos.typos, typos.Params),
    "entity_replacement": Kind("text", entity_replacement.entity_replacement, entity_replacement.Params),
    "words": Kind("text", words.words, words.Params),
}


def check(terms: Sequence[Term], media: Sequence[str], at: str = "generate.augment") -> None:
    """Refuse unknown kinds, wrong parameters and kinds for a medium that the task's requests do not have.

    `media` are of "image", "audio", "clip" and "text". Raises RecipeError naming the term.
    """
    for index, term in enumerate(terms):
        if term.name not in AUGMENTATIONS:
            raise RecipeError(f"{at}.{index}: unknown augmentation", got=term.name, expected=", ".join(AUGMENTATIONS))
        kind = AUGMENTATIONS[term.name]
        kind.params.parse(term.params, at=f"{at}.{index}.params")
        if kind.medium not in media:
            fitting = [name for name, one in AUGMENTATIONS.items() if one.medium in media]
            got = f"{term.name} (for {kind.medium})"
            raise RecipeError(f"{at}.{index}: does not fit the task", got=got, expected=", ".join(fitting) or "none")


def augmented(requests: pa.Table, terms: Sequence[Term], seed: int) -> pa.Table:
    """New request rows only, in the columns and types of `requests`: per unaugmented row and term, `views` of them.

    A new row has `parent` (the sample_id it was made from), `template` (the kind), a `view` beyond all there are, and
    the parent's true label or none (`labels: inherit` or `teacher`). What it holds depends on (seed, term, parent)
    alone, so more rows never change another row's views. A view that equals its row (no entity in it, black over black)
    is left out, one that two terms ask for (of slices that share the row) is made once. Raises RecipeError as `check`
    does, and where `requests` has no column for a kind.
    """
    check(terms, [medium for medium, column in COLUMNS.items() if _holds(requests, column)])
    parents = requests.filter(pc.is_null(requests["parent"]))
    first = 1 + (pc.max(requests["view"]).as_py() if len(requests) else 0)
    made: dict[str, dict[str, Any]] = {}
    for term in terms:
        params = AUGMENTATIONS[term.name].params.parse(term.params)
        meant = parents if params.where is None else parents.filter(pa.array(params.where.rows(parents)))
        for copy in range(params.views):
            for row in _copies(meant, term, params, (seed, copy, first)):
                made.setdefault(row["sample_id"], row)
            first += 1
    return pa.Table.from_pylist(list(made.values()), requests.schema)


def extended(requests: pa.Table, terms: Sequence[Term], seed: int) -> pa.Table:
    """The requests and behind them their augmented views; the same table where there are no terms."""
    return pa.concat_tables([requests, augmented(requests, terms, seed)]) if terms else requests


def _holds(requests: pa.Table, column: str) -> bool:
    return column in requests.column_names and (not len(requests) or requests[column].null_count < len(requests))


def _copies(
    parents: pa.Table, term: Term, params: Augmentation, numbers: tuple[int, int, int]
) -> Iterator[dict[str, Any]]:
    """One view of each row; `numbers` are the seed, the number of the copy and the view's number in the table."""
    seed, copy, view = numbers
    for row in parents.to_pylist():
        name = digest([row["sample_id"], term.name, params.identity(), copy, seed])
        changed = _changed(row, AUGMENTATIONS[term.name], params, np.random.default_rng(int(name[:32], 16)))
        if changed is None:
            continue
        label = {} if params.labels == "inherit" else {"label": None, "label_name": None}
        origin = {"sample_id": name[:16], "parent": row["sample_id"], "template": term.name, "view": view}
        yield row | changed | label | origin


def _changed(row: dict[str, Any], kind: Kind, params: Augmentation, rng: np.random.Generator) -> dict[str, Any] | None:
    """The columns that the noise changes; None where the row holds nothing of that medium or nothing changes."""
    value = row[COLUMNS[kind.medium]]
    if not value:
        return None
    if kind.medium == "image":
        before = [decoded(one) for one in value]
        after = [kind.function(one, params, rng) for one in before]
        if all(map(np.array_equal, before, after)):
            return None
        # As PNG whatever it was: JPEG would smooth the noise away again.
        return {"images": [encoded(one) for one in after], "image_format": "png"}
    if kind.medium == "clip":
        shot = np.stack([decoded(one) for one in value])  # frames of one clip have one size
        blurred = kind.function(shot, params, rng)
        return None if np.array_equal(shot, blurred) else {"frames": [encoded(one) for one in blurred]}
    if kind.medium == "audio":
        samples, rate = sounds.read_wav(value)
        noisy = kind.function(samples, params, rng)
        return None if np.array_equal(noisy, samples) else {"audio": sounds.wav(noisy, rate)}
    made = kind.function(value, params, rng)
    return None if made == value else {COLUMNS[kind.medium]: made}


def decoded(data: bytes) -> np.ndarray:
    """An encoded picture as uint8 [H, W] (grey) or [H, W, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def encoded(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as the bytes of a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

"""Rows of questions about media as arrays: the word vocabulary, packed columns, and the batches made of them.

Shape legend: R rows, S tokens, A answer tokens, N pictures of a row, L patches, F patch features, G groups of frames,
M mel bands, T frames of a sound, Q scored positions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from jobs.tasks.soft_labels import teacher_signals
from jobs.training.table import Columns
from serving.bundle import clips, pictures
from serving.bundle.answer import read_tokenizer

SPECIAL = (
    "<pad>",
    "<eos>",
    "<unk>",
    "<vision_start>",
    "<vision_end>",
    "<image>",
    "<audio_start>",
    "<audio>",
    "<video>",
    "<answer>",
    "<audio_end>",  # last, and only in vocabularies of `vocabulary`: what `digits` trained on keeps its numbers
)
TOKENS = {name.strip("<>"): index for index, name in enumerate(SPECIAL)}
WORDS_MAX = 30_000  # packed as int16


@dataclass(frozen=True)
class Shown:
    """What packing, scoring and saving need to know of a source: its media and words, and no rows."""

    media: pictures.Media
    tokenizer: Any
    answer_tokens: int
    slices: Sequence[str]

    @classmethod
    def of(cls, folder: Path) -> Shown:
        """What a model folder says of the rows that its model was made for."""
        spec = json.loads((folder / "task.json").read_text())
        return cls(pictures.Media.of(spec), read_tokenizer(folder), spec["max_new_tokens"], spec["slices"])

    @property
    def spec(self) -> dict[str, Any]:
        """The `task.json` that `of` reads, and the ground of a bundle's `bundle.json`."""
        media = self.media
        tokens = {name: index for name, index in TOKENS.items() if self.tokenizer.id_to_token(index) == f"<{name}>"}
        picture = {"size": media.picture.size, "patch": media.picture.patch, "merge": media.picture.merge}
        sound = {} if media.sound is None else {"sound": asdict(media.sound)}
        clip = {} if media.clip is None else {"clip": asdict(media.clip)}
        return {
            "task": "visual_qa", "tokens": tokens, "picture": picture, "max_images": media.max_images, **sound, **clip,
            "max_new_tokens": self.answer_tokens, "slices": list(self.slices),
        }  # fmt: skip


class Source(Protocol):
    """Where the rows of a visual task come from."""

    @property
    def media(self) -> pictures.Media:
        """What a row may show."""

    @property
    def tokenizer(self) -> Any:
        """The words of questions and answers."""

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer, with its end."""

    @property
    def slices(self) -> Sequence[str]:
        """See `Task.slices`."""

    def check(self) -> None:
        """Refuse a recipe that cannot work, before Ray starts. Raises InputError."""

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`."""

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`."""

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`."""

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""

    def mean_picture(self) -> np.ndarray:
        """The training pictures' mean, float32 [S, S]: what `embeddings` centres on."""


def tokenizer(words: Iterable[str], special: Sequence[str]) -> Any:
    """Word-level tokenizer: the special tokens, then these words; words are what stands between spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = [*special, *words]
    model = models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def vocabulary(questions: Iterable[str], answers: Iterable[str]) -> Any:
    """Tokenizer over the words of training questions (in lower case) and answers (as written), at most WORDS_MAX, the
    commonest first; marks at the end of a word are words of their own. What it does not know is <unk>."""
    from tokenizers import Regex, pre_tokenizers

    marks = pre_tokenizers.Split(Regex(r"[?!.,;:]+$"), "isolated")
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    counts: Counter[str] = Counter()
    for text, times in Counter([*(text.lower() for text in questions), *answers]).items():
        for word, _ in split.pre_tokenize_str(text):
            counts[word] += times
    known = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS_MAX]]
    made = tokenizer(known, SPECIAL)
    made.pre_tokenizer = split
    return made


def columns(prompts: Sequence[pictures.Prompt], answers: Sequence[Sequence[int]], slices: np.ndarray,
            media: pictures.Media) -> dict[str, np.ndarray]:  # fmt: skip
    """Packed columns of rows: token ids of prompt and answer, media, and how many of each there are."""
    width = max(len(p.ids) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = np.full((len(prompts), width), TOKENS["pad"], np.int16)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt.ids) + len(answer)] = [*prompt.ids.tolist(), *answer]
    out = {
        "ids": ids,
        "images": np.array([len(prompt.patches) for prompt in prompts], np.int16),
        "prompt": np.array([len(prompt.ids) for prompt in prompts], np.int16),
        "answer": np.array([len(answer) for answer in answers], np.int16),
        "slice": slices.astype(np.int16),
    }  # fmt: skip
    if media.max_images:
        out["patches"] = _stacked([prompt.patches for prompt in prompts], media.max_images)
    if media.clip is not None:
        most = clips.groups(media.clip.frames, media.picture.temporal)
        out["groups"] = _stacked([prompt.groups for prompt in prompts], most)
        out["group_count"] = np.array([len(prompt.groups) for prompt in prompts], np.int16)
        out["stride"] = np.array([prompt.stride for prompt in prompts], np.int32)
    if media.sound is not None:
        out["mels"] = _stacked([prompt.mels.astype(np.float16) for prompt in prompts], 1)
        out["sounds"] = np.array([len(prompt.mels) for prompt in prompts], np.int16)
    return out


def _stacked(own: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Arrays [n, ...] of rows in one [R, most, ...], zero where a row has fewer."""
    out = np.zeros((len(own), most, *own[0].shape[1:]), own[0].dtype)
    for row, values in enumerate(own):
        out[row, : len(values)] = values
    return out


def batch(packed: Columns, rows: np.ndarray, media: pictures.Media, answer_tokens: int) -> dict[str, Tensor]:
    """Inputs and targets of some rows (see `Task.batch`), padded on the right to the longest of them."""
    prompt_R, answer_R = packed["prompt"][rows].astype(int), packed["answer"][rows].astype(int)
    ids_RS = packed["ids"][rows, : (prompt_R + answer_R).max()].astype(np.int64)
    strides = packed["stride"][rows] if "stride" in packed else None
    asked_RS = np.where(np.arange(ids_RS.shape[1]) < prompt_R[:, None], ids_RS, TOKENS["pad"])
    # An answer is text, also where a teacher that has learned nothing yet answers with the mark of a picture.
    index_RS, position_3RS = pictures.placement(asked_RS, TOKENS, media.picture, strides)
    answer_RA = np.arange(answer_tokens) < answer_R[:, None]
    at_RA = np.arange(len(rows))[:, None] * ids_RS.shape[1] + prompt_R[:, None] - 1 + np.arange(answer_tokens)
    scored_Q = at_RA[answer_RA]
    arrays = {
        "input_ids": ids_RS, "visual_index": index_RS, "position_ids": position_3RS, "scored": scored_Q,
        "targets": ids_RS.reshape(-1)[scored_Q + 1],
    } | _media(packed, rows, media) | teacher_signals(packed, rows, answer_RA)  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _media(packed: Columns, rows: np.ndarray, media: pictures.Media) -> dict[str, np.ndarray]:
    """`pixels` and, where the media have sounds, `mels` of some rows, as `omni.features` takes them."""
    patches, groups = _empty(media)
    if "patches" in packed:
        patches = _present(packed["patches"], packed["images"], rows)
    if "groups" in packed:
        groups = _present(packed["groups"], packed["group_count"], rows)
    out = {"pixels": pictures.all_pixels(patches, groups, media.picture)}
    if "mels" in packed:
        out["mels"] = _present(packed["mels"], packed["sounds"], rows).astype(np.float32)
    return out


def _empty(media: pictures.Media) -> tuple[np.ndarray, np.ndarray]:
    """No patches [0, L, F] and no groups of frames [0, temporal, L, F]."""
    shape = (media.picture.grid**2, media.picture.features)
    return np.zeros((0, *shape), np.uint8), np.zeros((0, media.picture.temporal, *shape), np.uint8)


def _present(values: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    held: np.ndarray = values[rows][np.arange(values.shape[1]) < counts[rows][:, None]]
    return held


def prompts(packed: Columns, media: pictures.Media) -> list[pictures.Prompt]:
    """The prompts of packed rows, as a teacher is asked them."""
    out, no_mels = [], np.zeros((0, 0, 0), np.float32)
    no_patches, no_groups = _empty(media)
    for row, length in enumerate(packed["prompt"]):
        groups = packed["groups"][row, : packed["group_count"][row]] if "groups" in packed else no_groups
        mels = packed["mels"][row, : packed["sounds"][row]].astype(np.float32) if "mels" in packed else no_mels
        stride = int(packed["stride"][row]) if "stride" in packed else 1
        patches = packed["patches"][row, : packed["images"][row]] if "patches" in packed else no_patches
        ids = packed["ids"][row, :length].astype(np.int64)
        out.append(pictures.Prompt(ids, patches, groups, stride, mels))
    return out

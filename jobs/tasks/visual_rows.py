"""Rows of questions about pictures as arrays: the word vocabulary, packed columns, and the batches made of them.

Shape legend: R rows, S tokens, A answer tokens, L patches, F patch features, Q scored positions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.data import digits
from jobs.tasks.soft_labels import teacher_signals
from jobs.training.table import Columns
from serving.bundle import pictures

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
)
TOKENS = {name.strip("<>"): index for index, name in enumerate(SPECIAL)}
ANSWER_TOKENS = 3  # two digits and the end
MAX_IMAGES = 2


@functools.cache
def tokenizer() -> Any:
    """Word-level tokenizer over the words of the question bank, numbers and specials."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    asked = {word for q in digits.QUESTIONS for text in q.wordings for word in text.replace("{n}", "").split()}
    words = [*SPECIAL, *sorted(asked | set(digits.WORDS) | {"yes", "no", "equal"})]
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def columns(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], patches_RNLF: np.ndarray,
            counts_R: np.ndarray, slices_R: np.ndarray) -> dict[str, np.ndarray]:  # fmt: skip
    """Packed columns of rows: token ids of prompt and answer, patches, and how many of each there are."""
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = np.full((len(prompts), width), TOKENS["pad"], np.int16)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
    return {
        "ids": ids, "patches": patches_RNLF, "images": counts_R.astype(np.int16),
        "prompt": np.array([len(prompt) for prompt in prompts], np.int16),
        "answer": np.array([len(answer) for answer in answers], np.int16),
        "slice": slices_R.astype(np.int16),
    }  # fmt: skip


def batch(packed: Columns, rows: np.ndarray, picture: pictures.Picture) -> dict[str, Tensor]:
    """Inputs and targets of some rows (see `Task.batch`), padded on the right to the longest of them."""
    prompt_R, answer_R = packed["prompt"][rows].astype(int), packed["answer"][rows].astype(int)
    ids_RS = packed["ids"][rows, : (prompt_R + answer_R).max()].astype(np.int64)
    index_RS, position_3RS = pictures.placement(ids_RS, TOKENS["image"], picture)
    present = np.arange(MAX_IMAGES) < packed["images"][rows][:, None]
    answer_RA = np.arange(ANSWER_TOKENS) < answer_R[:, None]
    at_RA = np.arange(len(rows))[:, None] * ids_RS.shape[1] + prompt_R[:, None] - 1 + np.arange(ANSWER_TOKENS)
    scored_Q = at_RA[answer_RA]
    arrays = {
        "input_ids": ids_RS, "visual_index": index_RS, "position_ids": position_3RS, "scored": scored_Q,
        "pixels": pictures.pixel_values(packed["patches"][rows][present], picture),
        "targets": ids_RS.reshape(-1)[scored_Q + 1],
    } | teacher_signals(packed, rows, answer_RA)  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

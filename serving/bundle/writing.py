"""Answers of a language model: it continues a text token by token with a key/value cache, or scores a given one.

Shape legend: B rows, S prompt tokens, A answer tokens, P cached tokens, N kept positions, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving import engines
from serving.bundle.answer import Answer, Array, BundleError, by_length, softmax, text_of
from serving.bundle.files import Source, tokenizer_of

BATCH = 32  # rows at once: logits of a row's every position are there while it is scored


class Writer:
    """Continues texts: greedy at the bundle's `temperature` 0, else drawn from a stream of the text and its `seed`.

    `continues` says which positions `logits` gives: those of the text itself, or those of the answer to it.
    """

    def __init__(self, source: Source, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokenizer = spec, tokenizer_of(source)
        self.graph = engines.open_graph(source, "decoder", spec)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Continuations in the order of `items`, each `{"text": str}`. Raises BundleError for an empty text."""
        return [self._answer(*found) for found in self._write(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [A, V] of each item at T=1: at every token of the text where the student continues texts, else
        at every token of its answer. Raises BundleError for an empty text."""
        if not self.spec["continues"]:
            return [logits_AV for _, logits_AV in self._write(items)]
        bos = self.spec["tokens"]["bos"]
        return self.scored([(np.array([bos]), plain_ids(item, self.tokenizer, self.spec)) for item in items])

    def scored(self, pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
        """Logits float32 [A, V] that the student gives the tokens of each (context ids [S], answer ids [A])."""
        rows = [(np.concatenate([context, answer[:-1]]), len(answer)) for context, answer in pairs]

        def run(chosen: list[int]) -> list[Array]:
            ids_BS = np.stack([rows[row][0] for row in chosen])
            logits_BSV, _ = self.step(ids_BS, 0, np.arange(ids_BS.shape[1]), None)
            return [own_SV[-rows[row][1] :] for row, own_SV in zip(chosen, logits_BSV, strict=True)]

        return by_length([ids for ids, _ in rows], run, BATCH)

    def _write(self, items: Sequence[Mapping[str, Any]]) -> list[tuple[Array, Array]]:
        """Per item its answer's tokens [A] with the end, and the logits [A, V] that chose them."""
        prompts = [prompt_ids(item, self.tokenizer, self.spec) for item in items]
        return by_length(prompts, lambda rows: self._decode([prompts[row] for row in rows]), BATCH)

    def _decode(self, prompts: Sequence[Array]) -> list[tuple[Array, Array]]:
        draws, steps, cache = self._draws(prompts), self.spec["max_new_tokens"], None
        ids_BS, at, logits, tokens = np.stack(prompts), 0, [], []
        done_B = np.zeros(len(prompts), bool)
        for step in range(steps):
            logits_B1V, cache = self.step(ids_BS, at, np.array([ids_BS.shape[1] - 1]), cache)
            at += ids_BS.shape[1]
            logits.append(logits_B1V[:, 0])
            token_B = chosen(logits[-1], None if draws is None else draws[:, step], self.spec["temperature"])
            tokens.append(token_B)
            done_B |= token_B == self.spec["tokens"]["eos"]
            if done_B.all():
                break
            ids_BS = token_B[:, None]
        tokens_BA, logits_BAV = np.stack(tokens, 1), np.stack(logits, 1)
        ended_BA = tokens_BA == self.spec["tokens"]["eos"]
        length_B = np.where(ended_BA.any(1), ended_BA.argmax(1) + 1, tokens_BA.shape[1])
        return [(tokens_BA[row, :n], logits_BAV[row, :n]) for row, n in enumerate(length_B.tolist())]

    def _draws(self, prompts: Sequence[Array]) -> Array | None:
        """One number a step and row, float64 [B, steps]: a text gets the same answer beside any others."""
        if not self.spec["temperature"]:
            return None
        seeds = [[self.spec["seed"], zlib.crc32(ids.tobytes())] for ids in prompts]
        return np.stack([np.random.default_rng(seed).random(self.spec["max_new_tokens"]) for seed in seeds])

    def step(self, ids_BS: Array, at: int, keep_N: Array, cache: list[Array] | None) -> tuple[Array, list[Array]]:
        """Logits [B, N, V] at the kept positions and the grown cache, per layer k and v, each [B, K, P + S, D]; `at`
        tokens of each row were read before (None: the cache of none)."""
        if cache is None:
            empty = np.zeros((len(ids_BS), self.spec["kv_heads"], 0, self.spec["head_dim"]), np.float32)
            cache = [empty] * (2 * self.spec["layers"])
        place_BS = np.broadcast_to(np.arange(at, at + ids_BS.shape[1]), ids_BS.shape).copy()
        feeds = {"input_ids": ids_BS, "position_ids": place_BS, "keep": keep_N.astype(np.int64)}
        logits_BNV, *grown = self.graph(feeds | {f"past_{i}": value for i, value in enumerate(cache)})
        return logits_BNV, grown

    def _answer(self, tokens_A: Array, logits_AV: Array) -> Answer:
        p_A = softmax(logits_AV)[np.arange(len(tokens_A)), tokens_A]
        written = tokens_A[:-1] if tokens_A[-1] == self.spec["tokens"]["eos"] else tokens_A
        return Answer(self.tokenizer.decode(written.tolist()), float(np.exp(np.log(p_A).mean())))


def chosen(logits_BV: Array, uniform_B: Array | None, temperature: float) -> Array:
    """Token ids int64 [B]: the likeliest, or by one number of 0..1 a row the drawn one at this temperature."""
    if uniform_B is None:
        return np.asarray(logits_BV.argmax(-1), np.int64)
    running_BV = softmax(logits_BV.astype(np.float64) / temperature).astype(np.float64).cumsum(-1)
    aim_B1 = uniform_B[:, None] * running_BV[:, -1:]
    below_B = (running_BV <= aim_B1).sum(-1)
    return np.asarray(np.minimum(below_B, logits_BV.shape[1] - 1), np.int64)


def plain_ids(item: Mapping[str, Any], tokenizer: Any, spec: Mapping[str, Any]) -> Array:
    """Token ids int64 [A] of a text, cut at `max_tokens`. Raises BundleError for an empty text."""
    ids = tokenizer.encode(text_of(item), add_special_tokens=False).ids
    if not ids:
        raise BundleError(f"text: no token in {item['text']!r:.80}")
    return np.asarray(ids[: spec["max_tokens"]], np.int64)


def prompt_ids(item: Mapping[str, Any], tokenizer: Any, spec: Mapping[str, Any]) -> Array:
    """Token ids int64 [S] of what is continued: the start, the last `max_tokens` tokens of the text, and where answers
    are written a line's end after it. Raises BundleError for an empty text."""
    text = text_of(item) if spec["continues"] else text_of(item) + "\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return np.asarray([spec["tokens"]["bos"], *ids[-spec["max_tokens"] :]], np.int64)

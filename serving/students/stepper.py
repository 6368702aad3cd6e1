"""Iteration-level batching of a language model: texts join and leave between tokens, and are handed out as they grow.

Every round gives each text that is being written one token. The bundle's graph has no mask for rows of several lengths,
so texts go through it together where as many tokens of them were read (texts that came together, and every prompt of
one length) and the bundle says that a batch changes nothing; else one after the other, in turns. Either way a short
answer never waits for a long one to end. The bits are those of `predict.py`.

Shape legend: B rows, S prompt tokens, V vocabulary.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.bundle.answer import Answer, Array, softmax
from serving.bundle.writing import Writer, chosen, prompt_ids
from serving.seams.problems import Refusal
from serving.students.batcher import Limits

HALF = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True)
class Writing:
    """How one text is written; None: as the bundle says. `stop` ends it before any of these words."""

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """A finished text: the answer, its length and the prompt's (tokens), and whether it ended by itself."""

    answer: Answer
    tokens: int
    prompt_tokens: int
    ended: bool


Pieces = AsyncGenerator["str | Written", None]


@dataclass(eq=False)
class _Text:
    """One text that is being written. Only the thread changes what is below the queue."""

    writing: Writing
    prompt: Array  # [S]
    queue: asyncio.Queue[str | Written | Exception]
    left: bool = False  # nobody reads it any more
    delay_ms: float = 0.0
    pending: Array = field(default_factory=lambda: np.zeros(0, np.int64))  # ids that the graph has not read
    cache: list[Array] | None = None
    at: int = 0
    draws: Array | None = None
    tokens: list[int] = field(default_factory=list)
    shares: list[np.float32] = field(default_factory=list)  # probability of each token at T=1
    shown: str = ""


class Stepper:
    """Writes texts with a `Writer`'s graph in one thread."""

    def __init__(self, model: Writer, limits: Limits, together: bool) -> None:
        """`together`: the bundle is batch invariant."""
        self._model, self._limits, self._together = model, limits, together
        self._texts: list[_Text] = []
        self._waiting: list[_Text] = []
        self._thread = ThreadPoolExecutor(1, "student")
        self._round: asyncio.Future[Any] | None = None

    @property
    def waiting(self) -> int:
        """Texts that are being written or wait for it (count)."""
        return len(self._texts) + len(self._waiting)

    async def write(self, item: Mapping[str, Any], writing: Writing, delay_ms: float = 0.0) -> Pieces:
        """Pieces of the text as they come, then the whole as `Written`; leaving early ends the work at the next token.

        Raises BundleError for an empty text, Refusal (429) when too many are being written.
        """
        if self.waiting >= self._limits.queue_max:
            raise Refusal("overloaded", f"{self.waiting} texts are being written already", {"Retry-After": "1"})
        text = _Text(writing, prompt_ids(item, self._model.tokenizer, self._model.spec), asyncio.Queue())
        text.pending, text.delay_ms = text.prompt, delay_ms
        text.draws = self._draws(text)
        self._waiting.append(text)
        if self._round is None:
            self._next()
        try:
            while True:
                piece = await text.queue.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if isinstance(piece, Written):
                    return
        finally:
            text.left = True

    def close(self) -> None:
        """End the thread after the token that is computed; readers get an error."""
        for text in [*self._texts, *self._waiting]:
            text.queue.put_nowait(TimeoutError("the model is gone"))
        self._texts, self._waiting = [], []
        self._thread.shutdown(wait=False)

    def _next(self) -> None:
        self._texts = [text for text in self._texts if not text.left]
        free = self._limits.batch_max - len(self._texts)
        joining = [text for text in self._waiting if not text.left]
        self._texts, self._waiting = self._texts + joining[:free], joining[free:]
        self._round = None
        if self._texts:
            self._round = asyncio.get_running_loop().run_in_executor(self._thread, self._step, list(self._texts))
            self._round.add_done_callback(self._stepped)

    def _stepped(self, done: asyncio.Future[list[tuple[_Text, list[str | Written | Exception]]]]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:  # the graph failed: those it was working on have no answer, the next ones may
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            for text in self._texts:
                text.queue.put_nowait(failure)
            self._texts = []
        else:
            for text, pieces in done.result():
                for piece in pieces:
                    text.queue.put_nowait(piece)
                if pieces and not isinstance(pieces[-1], str):
                    self._texts.remove(text)
        self._next()

    def _step(self, texts: Sequence[_Text]) -> list[tuple[_Text, list[str | Written | Exception]]]:
        """One token more of every text; runs in the thread."""
        for text in texts:
            if text.delay_ms:
                time.sleep(text.delay_ms / 1000)
                text.delay_ms = 0.0
        found = []
        for group in self._groups(texts):
            cache = _together([text.cache for text in group if text.cache is not None])
            ids_BS = np.stack([text.pending for text in group])
            logits_BNV, grown = self._model.step(ids_BS, group[0].at, np.array([ids_BS.shape[1] - 1]), cache)
            for row, text in enumerate(group):
                text.at += ids_BS.shape[1]
                text.cache = [part[row : row + 1] for part in grown]
                found.append((text, self._grow(text, logits_BNV[row, 0])))
        return found

    def _groups(self, texts: Sequence[_Text]) -> Iterable[list[_Text]]:
        if not self._together:
            return [[text] for text in texts]
        groups: dict[tuple[int, int], list[_Text]] = {}
        for text in texts:
            groups.setdefault((text.at, len(text.pending)), []).append(text)
        return groups.values()

    def _grow(self, text: _Text, logits_V: Array) -> list[str | Written | Exception]:
        spec, number = self._model.spec, len(text.tokens)
        temperature = spec["temperature"] if text.writing.temperature is None else text.writing.temperature
        drawn = None if text.draws is None else text.draws[number : number + 1]
        token = int(chosen(logits_V[None], drawn, temperature)[0])
        text.tokens.append(token)
        text.shares.append(softmax(logits_V[None])[0, token])
        text.pending = np.array([token])
        ended = token == spec["tokens"]["eos"]
        whole = self._model.tokenizer.decode(text.tokens[:-1] if ended else text.tokens)
        cut = min((at for word in text.writing.stop if (at := whole.find(word)) >= 0), default=None)
        over = ended or cut is not None or len(text.tokens) >= self._most(text.writing)
        whole = whole[:cut]
        pieces: list[str | Written | Exception] = []
        # What may still change is kept back: half a character, and what may become a stop word.
        safe = whole if over else whole[: _settled(whole, text.writing.stop)]
        if len(safe) > len(text.shown) and safe.startswith(text.shown):
            pieces.append(safe[len(text.shown) :])
            text.shown = safe
        if over:
            confidence = float(np.exp(np.log(np.array(text.shares)).mean()))
            ended = ended or cut is not None
            pieces.append(Written(Answer(whole, confidence), len(text.tokens), len(text.prompt), ended))
        return pieces

    def _most(self, writing: Writing) -> int:
        own: int = self._model.spec["max_new_tokens"]
        return own if writing.max_tokens is None else min(own, writing.max_tokens)

    def _draws(self, text: _Text) -> Array | None:
        """One number a token, as `Writer` draws them: of the text and the seed alone."""
        spec = self._model.spec
        temperature = spec["temperature"] if text.writing.temperature is None else text.writing.temperature
        if not temperature:
            return None
        seed = spec["seed"] if text.writing.seed is None else text.writing.seed
        drawn: Array = np.random.default_rng([seed, zlib.crc32(text.prompt.tobytes())]).random(spec["max_new_tokens"])
        return drawn


def _together(caches: Sequence[list[Array]]) -> list[Array] | None:
    """The caches of several texts as one, rows one after the other; None for texts that have none yet."""
    return [np.concatenate(parts) for parts in zip(*caches, strict=True)] if caches else None


def _settled(text: str, stop: Sequence[str]) -> int:
    """How many characters of a text that still grows can no longer change."""
    end = len(text.rstrip(HALF))
    for word in stop:
        held = next((size for size in range(min(len(word) - 1, end), 0, -1) if text[:end].endswith(word[:size])), 0)
        end = min(end, len(text[:end]) - held)
    return end

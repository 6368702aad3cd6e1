"""The no-wait batcher and the iteration-level writer: who goes together, who is never computed, and the same bits."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from jobs.data import vocabulary
from serving.bundle.files import Folder
from serving.bundle.writing import Writer
from serving.models import decoder, decoder_graph
from serving.seams.problems import Refusal
from serving.students.batcher import Batcher, Limits
from serving.students.stepper import Stepper, Writing, Written

LIMITS = Limits(batch_max=4, queue_max=8, queue_ms=1e9)


class Doubling:
    """Doubles numbers, remembers the batches, and waits at the gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def __call__(self, rows: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(rows))
        assert self.gate.wait(10)
        return [ValueError("odd one") if row == 13 else 2 * row for row in rows]


def test_a_row_alone_goes_at_once_and_those_that_came_meanwhile_go_together() -> None:
    async def go() -> tuple[list[list[int]], list[Any]]:
        model = Doubling()
        batcher = Batcher[int, int](model, LIMITS)
        calls = [asyncio.ensure_future(batcher.submit(row, row % 2, 1e6)) for row in (1, 2, 3, 4, 6, 13)]
        await asyncio.sleep(0.05)
        calls[3].cancel()  # 4 has not begun
        model.gate.set()
        return model.batches, await asyncio.gather(*calls, return_exceptions=True)

    batches, results = asyncio.run(go())
    assert batches == [[1], [2, 6], [3, 13]]  # the oldest, with its like
    assert results[:3] == [2, 4, 6] and results[4] == 12
    assert isinstance(results[3], asyncio.CancelledError)
    assert isinstance(results[5], ValueError)


def test_a_row_whose_time_is_up_is_never_computed() -> None:
    async def go() -> tuple[list[list[int]], list[Any]]:
        model = Doubling()
        batcher = Batcher[int, int](model, LIMITS)
        calls = [asyncio.ensure_future(batcher.submit(1, 0, 1e6)), asyncio.ensure_future(batcher.submit(2, 0, 20))]
        await asyncio.sleep(0)  # both have come, whatever else this machine does
        await asyncio.sleep(0.1)
        model.gate.set()
        return model.batches, await asyncio.gather(*calls, return_exceptions=True)

    batches, results = asyncio.run(go())
    assert (batches, results[0]) == ([[1]], 2)
    assert isinstance(results[1], TimeoutError)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def go() -> Refusal:
        model = Doubling()
        batcher = Batcher[int, int](model, LIMITS)
        calls = [asyncio.ensure_future(batcher.submit(row, 0, 1e6)) for row in range(9)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await batcher.submit(9, 0, 1e6)
        model.gate.set()
        assert await asyncio.gather(*calls) == [2 * row for row in range(9)]
        return refused.value

    refusal = asyncio.run(go())
    assert (refusal.code, refusal.headers) == ("overloaded", {"Retry-After": "1"})


def test_a_queue_that_would_take_too_long_refuses_before_it_is_full() -> None:
    async def go() -> None:
        batcher = Batcher[int, int](lambda rows: [time.sleep(0.05) or row for row in rows], Limits(1, 100, 120.0))
        await batcher.submit(0, 0, 1e6)
        calls = [asyncio.ensure_future(batcher.submit(row, 0, 1e6)) for row in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal):
            await batcher.submit(9, 0, 1e6)
        await asyncio.gather(*calls, return_exceptions=True)  # on a busy machine they wait too long as well

    asyncio.run(go())


def test_the_batch_that_runs_counts_among_what_a_row_would_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, doubling = [0.0], Doubling()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(rows: Sequence[int]) -> list[int | Exception]:
        clock[0] += 0.1 if rows == [0] else 0.0
        return doubling(rows)

    async def go() -> None:
        batcher = Batcher[int, int](run, Limits(1, 100, 250.0))
        doubling.gate.set()
        await batcher.submit(0, 0, 1e6)
        doubling.gate.clear()
        calls = [asyncio.ensure_future(batcher.submit(row, 0, 1e6)) for row in (1, 2, 3)]
        await asyncio.sleep(0)
        assert batcher.waiting == 2  # 200 ms, and 100 of the one that runs
        with pytest.raises(Refusal):
            await batcher.submit(9, 0, 1e6)
        clock[0] += 0.06  # 40 of the one that runs
        calls.append(asyncio.ensure_future(batcher.submit(4, 0, 1e6)))
        await asyncio.sleep(0)
        doubling.gate.set()
        assert await asyncio.gather(*calls) == [2, 4, 6, 8]

    asyncio.run(go())


TEXTS = ["the cat sat", "a dog ran by the sea", "one bird", "the cat sat", "two birds"]
WORDS = vocabulary.learned(TEXTS, 270)
SPEC = {
    "task": "text_generation", "continues": True, "tokens": WORDS.ends, "max_tokens": 32, "max_new_tokens": 12,
    "temperature": 0.0, "seed": 0, "threads": 1, "engine": {"name": "onnxruntime"},
}  # fmt: skip
SIZES = {"layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "inner_size": 48}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A small language model with random weights in a bundle's folder."""
    folder: Path = tmp_path_factory.mktemp("bundle")
    model = decoder.build(SIZES, WORDS.size, 64, WORDS.ends, 0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    spec = SPEC | decoder_graph.export(model, folder)
    Tokenizer.from_str(WORDS.tokenizer.to_str()).save(str(folder / "tokenizer.json"))
    return Writer(Folder(folder), spec)


async def collected(stepper: Stepper, text: str, writing: Writing = Writing()) -> tuple[list[str], Written]:  # noqa: B008
    pieces: list[str] = []
    async for piece in stepper.write({"text": text}, writing):
        if isinstance(piece, Written):
            return pieces, piece
        pieces.append(piece)
    raise AssertionError


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_texts_written_in_turns_have_the_bits_of_predict_py(writer: Writer, temperature: float) -> None:
    writer.spec = {**writer.spec, "temperature": temperature}
    alone = [writer.predict([{"text": text}])[0] for text in TEXTS]

    async def go() -> list[tuple[list[str], Written]]:
        stepper = Stepper(writer, Limits(1, 8, 1e9) if temperature else LIMITS, together=False)
        return await asyncio.gather(*(collected(stepper, text) for text in TEXTS))

    for (pieces, written), expected in zip(asyncio.run(go()), alone, strict=True):
        assert written.answer == expected
        assert "".join(pieces) == expected.text
        assert written.tokens <= 12


def test_texts_of_one_length_go_through_the_graph_together(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.spec = {**writer.spec, "temperature": 0.0}
    alone = [writer.predict([{"text": text}])[0] for text in TEXTS]
    sizes: list[int] = []
    step = writer.step

    def counted(ids_BS: Any, *rest: Any) -> Any:
        sizes.append(len(ids_BS))
        return step(ids_BS, *rest)

    monkeypatch.setattr(writer, "step", counted)

    async def go() -> list[tuple[list[str], Written]]:
        stepper = Stepper(writer, Limits(16, 16, 1e9), together=True)
        return await asyncio.gather(*(collected(stepper, text) for text in TEXTS))

    found = asyncio.run(go())
    assert [written.answer.text for _, written in found] == [answer.text for answer in alone]
    np.testing.assert_allclose([w.answer.confidence for _, w in found], [a.confidence for a in alone], rtol=1e-4)
    assert max(sizes) >= 2


def test_a_text_is_cut_where_it_is_told_to_end(writer: Writer) -> None:
    writer.spec = {**writer.spec, "temperature": 0.0}
    whole = writer.predict([{"text": TEXTS[0]}])[0].text
    word = whole[3:5]

    async def go(writing: Writing) -> tuple[list[str], Written]:
        return await collected(Stepper(writer, LIMITS, together=False), TEXTS[0], writing)

    pieces, stopped = asyncio.run(go(Writing(stop=(word,))))
    assert stopped.answer.text == "".join(pieces) == whole[: whole.find(word)]
    assert asyncio.run(go(Writing(max_tokens=3)))[1].tokens == 3
    assert not asyncio.run(go(Writing(max_tokens=3)))[1].ended


def test_a_reader_that_leaves_frees_its_place(writer: Writer) -> None:
    async def go() -> int:
        stepper = Stepper(writer, LIMITS, together=False)
        pieces = stepper.write({"text": TEXTS[0]}, Writing())
        await anext(pieces)
        await pieces.aclose()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not stepper.waiting:
                break
        return stepper.waiting

    assert asyncio.run(go()) == 0

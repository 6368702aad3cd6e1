"""Baselines, sizes and latency: what is learned from training rows, what is counted, and who is timed when."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from jobs.measure import baselines, latency, sizes
from serving.bundle import predict


def samples(rows: Sequence[tuple[str, int, str | None]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"prompt": prompt, "images": [b"x"] * count, "label_name": answer} for prompt, count, answer in rows]
    )


def test_the_majority_baseline_answers_by_question_and_by_pictures_where_it_never_heard_it() -> None:
    floor = baselines.fit(
        "visual_qa",
        samples(
            [("is it even ?", 1, "yes")] * 3 + [("is it even ?", 1, "no"), ("sum ?", 2, "nine"), ("sum ?", 2, None)]
        ),
    )
    asked = [{"text": "is it even ?", "images": [b"x"]}, {"text": "unheard ?", "images": [b"x", b"x"]}]
    assert floor.predict(asked) == [predict.Answer("yes", 0.75), predict.Answer("nine", 1.0)]


def test_the_text_baseline_learns_words() -> None:
    rows = [
        (f"{word} please {number}", 0, label)
        for number in range(5)
        for word, label in (("card", "cards"), ("rate", "rates"))
    ]
    floor = baselines.fit("text_classification", samples([*rows, ("unlabelled", 0, None)]))
    assert [answer.text for answer in floor.predict([{"text": "a card"}, {"text": "the rate"}])] == ["cards", "rates"]
    assert floor.params > 0 and floor.bytes == 4 * floor.params


def test_shared_parameters_count_once_and_tables_count_apart() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner, self.lm_head = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False)

    model = Model()
    assert sizes.parameters(model) == (40 + 20 + 40, 20)
    model.lm_head.weight = model.table.weight
    assert sizes.parameters(model) == (40 + 20, 20)
    assert isinstance(model.inner.weight, torch.Tensor)


def test_key_value_bytes_are_those_of_a_float32_cache_or_none_at_all() -> None:
    assert sizes.kv_bytes_per_token({"layers": 2, "kv_heads": 2, "head_dim": 24}) == 2 * 2 * 2 * 24 * 4
    assert sizes.kv_bytes_per_token({"task": "text_classification"}) is None


class Recorder:
    def __init__(self, name: str, calls: list[tuple[str, Any]]) -> None:
        self.name, self.calls = name, calls

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        self.calls.append((self.name, items[0]["text"]))
        return [predict.Answer("x", 1.0)]


def test_engines_take_turns_of_a_few_requests_and_not_always_in_the_same_order() -> None:
    calls: list[tuple[str, Any]] = []
    items = [{"text": str(number)} for number in range(7 * latency.TURN + 3)]
    timed = latency.interleaved({name: Recorder(name, calls) for name in "ab"}, items, seed=0)
    counted = calls[2 * latency.WARM_UP :]
    for name in "ab":
        assert [text for one, text in counted if one == name] == [item["text"] for item in items]
    turns = [counted[at : at + latency.TURN] for at in range(0, 14 * latency.TURN, latency.TURN)]
    assert all(len({name for name, _ in turn}) == 1 for turn in turns)
    assert {turn[0][0] + other[0][0] for turn, other in zip(turns[::2], turns[1::2], strict=True)} == {"ab", "ba"}
    assert all(0 <= one["p50"] <= one["p95"] <= one["p99"] for one in timed.values())


def test_few_requests_are_repeated_until_there_are_enough() -> None:
    items = [{"text": str(number)} for number in range(3)]
    chosen = latency.chosen(items, 7, seed=0)
    assert len(chosen) == 7 and chosen == latency.chosen(items, 7, seed=0)
    assert {item["text"] for item in chosen[:3]} == {"0", "1", "2"}

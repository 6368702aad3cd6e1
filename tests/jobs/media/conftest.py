"""A small table of questions over all media: real scans, a tone per digit, and clips of two pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.recipe import Recipe
from jobs.data import augment, digits
from serving.bundle import sounds

RATE = 4000
SHAPE: dict[str, Any] = {
    "layers": 1, "hidden_size": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "expert_size": 16, "vision_layers": 1,
    "vision_size": 16, "vision_heads": 2, "audio_layers": 1, "audio_size": 16, "audio_heads": 2, "audio_channels": 4,
}  # fmt: skip
STAGE = {"name": "fit", "epochs": 1.0, "learning_rate": 0.003, "losses": [{"name": "cross_entropy"}]}


def tone(digit: int) -> np.ndarray:
    """A fifth of a second, higher with the digit."""
    return (9000 * np.sin(2 * np.pi * (200 + 150 * digit) * np.arange(RATE // 5) / RATE)).astype(np.int16)


def rows(split: str, count: int) -> list[dict[str, Any]]:
    """Questions about one medium, two, or a video, in turn."""
    source = digits.pictures()
    pool = source.splits[split]
    out: list[dict[str, Any]] = []
    for number in range(count):
        place, other = int(pool[number % len(pool)]), int(pool[(number + 1) % len(pool)])
        digit, second = int(source.digits[place]), int(source.digits[other])
        picture = augment.encoded(source.pixels[place])
        row: dict[str, Any] = {"question": "", "answer": "", "image": None, "audio": None, "frames": None, "fps": None}
        kind = number % 4
        if kind == 0:
            row |= {"question": "What digit is this?", "answer": str(digit), "image": picture}
        elif kind == 1:
            row |= {"question": "What digit do you hear?", "answer": str(digit), "audio": sounds.wav(tone(digit), RATE)}
        elif kind == 2:
            answer = "yes" if digit == second else "no"
            row |= {"question": "Are picture and sound alike?", "answer": answer, "image": picture}
            row |= {"audio": sounds.wav(tone(second), RATE)}
        else:
            frames = [picture, picture, augment.encoded(source.pixels[other])]
            row |= {"question": "Which came first?", "answer": str(digit), "frames": frames, "fps": 2.0}
        out.append(row)
    return out


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet and test.parquet."""
    folder = tmp_path_factory.mktemp("media")
    for split, count in (("train", 96), ("test", 24)):
        pq.write_table(pa.Table.from_pylist(rows(split, count)), folder / f"{split}.parquet")
    return folder


@pytest.fixture
def make_recipe(tables: Path) -> Callable[..., Recipe]:
    """A recipe of tiny models over the tables; `data` and `params` (of data) replace what stands there."""

    def make(params: dict[str, Any] | None = None, **more: Any) -> Recipe:
        own = {"sound_frames": 16, "hop": 64, "mels": 16, "patch": 4, "merge": 2} | (params or {})
        data = {
            "source": "table", "train": str(tables / "train.parquet"), "test": str(tables / "test.parquet"),
            "text_column": "question", "label_column": "answer", "params": own,
        }  # fmt: skip
        data |= more.pop("data", {})
        values = {
            "name": "media", "task": "visual_qa", "data": data,
            "teacher": {"architecture": "omni_moe", "params": SHAPE},
            "student": {"architecture": "omni_moe", "params": SHAPE},
            "fit": {"batch_size": 16, "stages": [STAGE]},
            "distill": {"stages": [STAGE | {"losses": [{"name": "forward_kl"}]}]},
            "promote": {"model_name": "media"},
        }  # fmt: skip
        return Recipe.parse(values | more)

    return make

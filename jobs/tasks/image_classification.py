"""Labelled pictures, any set and any classes: a residual network as teacher, a depthwise-separable one as student.

The student learns from the training pictures and from views of them, all labelled by the teacher. The control arm has
the true labels; a picture that is only moved keeps its own, a mixture of two has none. Nothing here has a key/value
cache.

Shape legend: R rows, B rows of a batch, S pixels a side, C channels, V classes, F features, H and W sides of a map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cluster import schema
from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from jobs.data import augment, pictures, tabular
from jobs.data.augment import encoded
from jobs.data.picture_views import Views, views
from jobs.tasks import image_models
from jobs.tasks.one_label import SLICE, OneLabel, scores, true_classes
from jobs.tasks.soft_labels import likeliest, soft_columns, teacher_signals
from jobs.training.table import Columns
from serving.bundle.image_classes import Frame, read, values
from serving.models import image_nets

THUMBNAIL = 16  # pixels a side of what the diversity of a set is judged by


class ImageClassification(OneLabel):
    """`jobs.tasks.Task` for pictures with one label each."""

    network = "a picture classifier"
    sloped_input = "pixels"
    media = ("image",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.pictures = pictures.Pictures.parse(recipe.data.params, at="data.params")
        self.views = Views.parse(recipe.generate.views, at="generate.views")

    @cached_property
    def _read(self) -> tuple[tabular.Labelled, Frame]:
        return pictures.rows(self.recipe.data, self.pictures, self.recipe.seed)

    @property
    def rows(self) -> tabular.Labelled:
        """Classes, splits and rows set aside of the recipe's pictures, uint8 [S, S, C] each."""
        return self._read[0]

    @property
    def frame(self) -> Frame:
        """Size and channels that every network of the recipe reads."""
        return self._read[1]

    def picture(self, data: bytes) -> np.ndarray:
        """See `Pictured.picture`: [S, S, C]."""
        return read(data, self.frame)

    @cached_property
    def told_by_rows(self) -> dict[str, Any]:
        """See `OneLabel.told_by_rows`."""
        labels = list(self.rows.classes)
        return {"task": "image_classification", "labels": labels, "picture": asdict(self.frame), "max_images": 1}

    def check(self) -> None:
        """See `Task.check`; the cheap things first, the pictures last."""
        recipe = self.recipe
        for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
            image_models.check(name, section)
        if Views.parse(recipe.fit.views, at="fit.views").mixed:
            got = recipe.fit.views["mixed"]
            raise RecipeError("fit.views.mixed: two pictures have no one true label", got=got, expected="0")
        if recipe.generate.kept_layers not in ((), (-1,)):
            expected = "hidden_layer -1 (the pooled last map) or null, hidden_layers []"
            hint = "maps are not kept (4x4 cells of 64 channels: 50 times ten logits): live_teacher: true in the stage"
            raise RecipeError("generate: layers to keep", got=list(recipe.generate.kept_layers), expected=expected,
                              hint=hint)  # fmt: skip
        if any(stage.kv_heads is not None for stage in (*recipe.fit.stages, *recipe.distill.stages)):
            raise RecipeError("stages: kv_heads: a picture classifier has no key/value cache", expected="kv_heads null")
        for name, training in (("fit", recipe.fit), ("distill", recipe.distill)):
            if training.engine.precision != "fp32":  # torch: expected scalar type BFloat16 but found Float
                what = f"{name}.engine.precision: batch normalisation is trained in fp32"
                raise RecipeError(what, got=training.engine.precision, expected="fp32")
        augment.check(recipe.generate.augment, ["image"])
        _ = self.rows

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`: the hash of every data file (pictures that a table names by path are not in it)."""
        own = {name: image_models.identity(section) for name, section in
               (("teacher", self.recipe.teacher), ("student", self.recipe.student))}  # fmt: skip
        if self.recipe.data.source == "digits":
            return {"source": "sklearn.load_digits", "weights": own}
        return {"source": "table", "files": tabular.identity(self.recipe.data), "weights": own}

    def framing(self) -> dict[str, Any]:
        """See `Task.framing`; `check` refuses teachers that write."""
        return {"labels": list(self.rows.classes)}

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; a view names its picture (`parent`) and its kind (`template`).

        Training pictures without a label are asked about like the others.
        """
        parts = [self.rows.splits[split], *([self.rows.unlabelled] if split == "train" else [])]
        pixels_RSSC = _stacked([one for part in parts for one in part.inputs], self.frame)
        labels = np.concatenate([part.labels for part in parts]).tolist()
        numbers = np.concatenate([part.numbers for part in parts]).tolist()
        truths = [{"label": label, "label_name": self.rows.classes[label]} if label >= 0 else {} for label in labels]
        asked = [
            self._request(split, pixels, number, 0) | truth
            for pixels, truth, number in zip(pixels_RSSC, truths, numbers, strict=True)
        ]
        plain = [row["sample_id"] for row in asked]
        for view, seen_RSSC, mixed_R in views(pixels_RSSC, self.views, self.sample_seed) if split == "train" else ():
            asked += [
                self._request(split, pixels, number, view)
                | ({"template": "mixed"} if mixed else {"template": "moved", **truth})
                | {"parent": parent}
                for pixels, truth, number, mixed, parent in zip(seen_RSSC, truths, numbers, mixed_R, plain, strict=True)
            ]
        table = schema.conform(pa.Table.from_pylist(asked, schema.schema("requests")), "requests")
        if split == "train":
            table = augment.extended(table, self.recipe.generate.augment, self.sample_seed)
            table = table.slice(0, self.recipe.generate.samples or len(table))  # pictures as they are come first
        return table

    def _request(self, split: str, pixels_SSC: np.ndarray, number: int, view: int) -> dict[str, Any]:
        temperature, seed = self.recipe.generate.temperature, self.sample_seed
        image = encoded(pixels_SSC[..., 0] if self.frame.channels == 1 else pixels_SSC)
        return {
            "sample_id": digest([image.hex(), split, number, view, temperature, seed])[:16], "split": split,
            "slice": SLICE, "prompt": "", "images": [image], "image_format": "png", "seed_row": number, "view": view,
            "draw": 0, "temperature": temperature, "seed": seed,
        }  # fmt: skip

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`: `fit.samples` of the labelled pictures, each beside its `fit.views`."""
        rows = self.fit_rows()
        plain_RSSC = _stacked(rows.inputs, self.frame)
        own = Views.parse(self.recipe.fit.views)
        parts = [plain_RSSC, *(seen for _, seen, _ in views(plain_RSSC, own, self.recipe.seed))]
        return _columns(np.concatenate(parts), np.tile(rows.labels, len(parts)))

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""
        rows = self.rows.splits["validation"]
        return _columns(_stacked(rows.inputs, self.frame), rows.labels)

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """See `Task.pack`. Raises MismatchError when a row without a true label is to be packed with one."""
        pixels_RSSC = _stacked([read(own[0], self.frame) for own in samples["images"].to_pylist()], self.frame)
        if true_labels or labels is None:
            return _columns(pixels_RSSC, true_classes(samples))
        signals = soft_columns(labels, 1)
        return _columns(pixels_RSSC, likeliest(signals)) | signals

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """See `Task.embeddings`: small pictures, centred on the training pictures' mean.

        The mean is a fixed reference, never that of the judged set, which would make any set look diverse.
        """
        small = Frame(min(THUMBNAIL, self.frame.size), self.frame.channels)
        train = self.rows.splits["train"].inputs
        known = [encoded(one[..., 0] if one.shape[2] == 1 else one) for one in train[:: -(-len(train) // 1000)]]
        mean = np.mean([read(one, small) for one in known], 0, dtype=np.float32)
        seen_RSSC = _stacked([read(own[0], small) for own in samples["images"].to_pylist()], small)
        flat_RE = (seen_RSSC - mean).reshape(len(seen_RSSC), -1)
        return np.asarray(flat_RE / np.linalg.norm(flat_RE, axis=1, keepdims=True).clip(1e-6), np.float32)

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`; nothing is taken from the teacher."""
        return image_models.build(section, self.frame, len(self.rows.classes), seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`."""
        return image_nets.load(folder)

    def save(self, network: nn.Module, folder: Path) -> None:
        """See `Task.save`."""
        image_nets.save(network, folder, self.spec["labels"])
        (folder / "task.json").write_text(json.dumps(self.spec))

    def hidden_size(self, network: nn.Module) -> int:
        """See `Task.hidden_size`."""
        return int(network.head.in_features)  # type: ignore[union-attr,arg-type]

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Task.batch`; `pixels` float32 [B, C, S, S]."""
        arrays = {
            "pixels": values(columns["pixels"][rows]),
            "targets": columns["target"][rows].astype(np.int64),
        } | dict(teacher_signals(columns, rows, np.ones((len(rows), 1), bool)))
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`: logits [B, V] and pooled features [B, F]."""
        logits_BV, pooled_BF = network(batch["pixels"])
        return logits_BV, pooled_BF

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        """See `Layered.blocks`: the stages of the backbone."""
        return list(network.backbone.stages)  # type: ignore[union-attr,arg-type]

    def at_positions(self, state: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Layered.at_positions`: the feature map [B, C, H, W] as it is."""
        return state

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """Share of pictures whose class is right, and the mean over the classes that occur of their F1."""
        logits_RV, _ = image_nets.run(network, columns["pixels"])
        return scores(columns["target"], logits_RV.argmax(-1))


def _stacked(pixels: Sequence[np.ndarray], frame: Frame) -> np.ndarray:
    """uint8 [R, S, S, C], also of none."""
    shape = (len(pixels), frame.size, frame.size, frame.channels)
    return np.stack(pixels) if len(pixels) else np.zeros(shape, np.uint8)


def _columns(pixels_RSSC: np.ndarray, targets_R: np.ndarray) -> dict[str, np.ndarray]:
    slices = np.zeros(len(pixels_RSSC), np.int16)
    return {"pixels": pixels_RSSC, "target": np.asarray(targets_R, np.int32), "slice": slices}

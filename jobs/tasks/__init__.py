"""What a recipe's `task` means: its rows, how they are packed for training, and how a model's answers are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from cluster.recipe import ModelSection, Recipe
from jobs.training.table import Columns


class Task(Protocol):
    """One kind of problem, end to end. Metrics are dicts whose first entry is the primary metric (higher is better)."""

    @property
    def slices(self) -> Sequence[str]:
        """Names that the packed column `slice` counts through, and a curriculum draws from."""

    hidden_layer: int | None

    @property
    def continuable(self) -> bool:
        """Whether a finished student of it can be trained further (`distill.continue_from`, rounds of `jobs watch`):
        its answers are right or wrong, by which is measured what that makes it forget."""

    @property
    def media(self) -> Sequence[str]:
        """What a request of it may show, of "text", "image", "audio" and "video"."""

    def check(self) -> None:
        """Refuse a recipe that cannot work, before Ray starts. Raises InputError (data, shapes, vocabularies)."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes in the order of their index; None where answers are texts."""

    def data_identity(self) -> dict[str, Any]:
        """What names the recipe's rows: content hashes of files, or the name of an embedded set."""

    def dead_letters(self) -> list[dict[str, Any]]:
        """Rows of the recipe's data that can be no request, as rows of the dead-letter table (`cluster.schema`)."""

    def requests(self, split: str) -> pa.Table:
        """Rows to be answered (`cluster.schema` "requests"): "train" with `generate.views`, "validation" or "test"."""

    def framing(self) -> dict[str, Any]:
        """What a teacher that only writes must know of the task: `labels` and `question` of `teachers.write_folder`."""

    def fit_columns(self) -> Columns:
        """Packed labelled rows that the teacher is fitted on."""

    def validation_columns(self) -> Columns:
        """Packed labelled rows that stages are measured on; never the test split."""

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """Packed rows of a generated table: the teacher's answers with its signals, or the true labels without them."""

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """Unit vectors float32 [R, E] that the diversity of a set is judged by (DESIGN, decision 5)."""

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """A model of the recipe's shape, seeded; a student may take what it can use from the `teacher` folder."""

    def load(self, folder: str) -> nn.Module:
        """A model from its Hugging Face folder."""

    def save(self, network: nn.Module, folder: Path) -> None:
        """Write a Hugging Face folder with tokenizer and `task.json` (what answering needs beside the weights)."""

    def hidden_size(self, network: nn.Module) -> int:
        """Width of the hidden state that `scored` returns."""

    def kv_bytes(self, network: nn.Module) -> int:
        """Bytes a token keeps in the float32 key/value cache; 0 for models without one."""

    def merge_kv(self, network: nn.Module, heads: int) -> nn.Module:
        """The same network with fewer key/value heads."""

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """Inputs of `scored`, `targets` int64 [Q], and where packed `teacher_logits`, `teacher_hidden`."""

    def positions(self, columns: Columns, rows: np.ndarray) -> int:
        """Q, the number of scored positions of these rows."""

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [Q, V] and hidden state [Q, H] at the scored positions."""

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """Metrics by free generation (or classification) over packed rows."""


@runtime_checkable
class Layered(Protocol):
    """A task whose networks show their layers: what stages with `layers` look at, in the student and in the teacher."""

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        """The network's layers in order, each a module whose output (or its first) is the layer's state."""

    def at_positions(self, state: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """A layer's state [B, S, H] as features [Q, H] of the scored positions; a map [B, C, h, w] stays one."""


@runtime_checkable
class Pictured(Protocol):
    """A task whose networks see pictures."""

    def picture(self, data: bytes) -> np.ndarray:
        """An encoded picture as they see it, uint8. Raises BundleError for one that is none, or of another size."""


@runtime_checkable
class Attentive(Protocol):
    """A task whose networks show query, key and value: what attention_transfer and relation_transfer read of tokens.

    The recipe check knows them by `losses.TOKEN_TASKS`.
    """

    def real(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Which positions of a batch are tokens and no padding, bool [B, S]."""


@runtime_checkable
class Masking(Protocol):
    """A task whose networks can be asked for hidden tokens: what loss masked_tokens reads."""

    def masked(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [M, V] at masked positions and the tokens int64 [M] that stood there, drawn from torch's generator."""


@runtime_checkable
class Worded(Protocol):
    """A task whose targets have names: what `words` of the focus rule tokens are looked up in."""

    def word_runs(self, word: str) -> list[list[int]]:
        """Target ids that the word is written as, in a row, one list for each way; [] where it is never written."""


@runtime_checkable
class Sloped(Protocol):
    """A task whose teacher and student read one input as it is, of real numbers: what loss input_gradient reads."""

    @property
    def sloped_input(self) -> str:
        """Its name in `Task.batch`."""


def trained(recipe: Recipe, folder: Path) -> Task:
    """The task of a recipe where a network of it is trained, which may be a host without the recipe's data files.

    `folder` is one that `Task.save` wrote: labels (and the entries that are searched) are read from it, not from rows.
    """
    from jobs.tasks.one_label import OneLabel

    task = of(recipe)
    if isinstance(task, OneLabel):
        task.trust(folder)
    return task


def of(recipe: Recipe) -> Task:
    """The task object of a recipe; cheap, loads no data."""
    if recipe.task == "text_generation":
        from jobs.tasks.text_generation.task import TextGeneration

        return TextGeneration(recipe)
    if recipe.task == "visual_qa":
        from jobs.tasks.visual_qa.task import VisualQA

        return VisualQA(recipe)
    if recipe.task == "image_classification":
        from jobs.tasks.image_classification import ImageClassification

        return ImageClassification(recipe)
    if recipe.task == "retrieval":
        from jobs.tasks.retrieval import Retrieval

        return Retrieval(recipe)
    from jobs.tasks.text_classification import TextClassification

    return TextClassification(recipe)

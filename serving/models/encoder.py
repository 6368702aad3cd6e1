"""Text encoder with a linear head over the mean of its token states: the classifier that is trained and served.

A folder holds encoder and head in one `model.safetensors`, named as Hugging Face names a classifier's: plain
`AutoModel` reads the encoder, and with the code beside it (`published`) `AutoModelForSequenceClassification` the whole.

Shape legend: B rows, S tokens, V vocabulary, E the teacher's embedding width, H hidden size, C classes, R all rows.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cluster.errors import StepFailed
from cluster.recipe.base import Section
from serving.engines import Engine
from serving.models import one_segment, published, tracing
from serving.models.weights import locate

HEAD, WEIGHTS = "head.safetensors", "model.safetensors"
TRIED = 64  # tokens of the longest row that an exported graph is checked with
TOLERANCE = 1e-4  # largest difference of an exported graph, per unit of the largest logit; a correct one shows 1e-6


class EncoderParams(Section):
    """Sizes of an encoder made from config (BERT's own field names in the description)."""

    layers: int = Field(4, ge=1, description="num_hidden_layers (count)")
    hidden_size: int = Field(128, ge=8, description="hidden_size (units)")
    heads: int = Field(4, ge=1, description="num_attention_heads (count)")
    inner_size: int = Field(512, ge=8, description="intermediate_size (units)")
    activation: Literal["gelu", "relu"] = Field(
        "gelu", description="hidden_act; a small INT8 student answers in 7 % less time with relu"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="hidden_dropout_prob and attention_probs_dropout_prob (share)")

    @model_validator(mode="after")
    def heads_divide(self) -> Self:
        """Refuse heads that cannot share the hidden size."""
        if self.hidden_size % self.heads:
            raise ValueError("heads that divide hidden_size")
        return self


class TextClassifier(nn.Module):
    """`encoder` and `head`; `forward` takes the batch of `scored`."""

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the pooled state [B, H] they are computed from."""
        mask_BS1 = batch["attention_mask"][..., None]
        states_BSH = self.encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        pooled_BH = (states_BSH * mask_BS1).sum(1) / mask_BS1.sum(1)
        return self.head(pooled_BH), pooled_BH

    def rebuilt(self, config: Any, state: Mapping[str, Tensor]) -> TextClassifier:
        """A classifier with another config and these parameters. Raises RuntimeError where they do not fit."""
        fresh = TextClassifier(bare(type(self.encoder), config), self.head.out_features)
        fresh.load_state_dict(dict(state))
        return fresh


def scored(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and pooled hidden state [B, H]; `batch`: input_ids, attention_mask int64 [B, S] (1 = a token)."""
    logits_BC, pooled_BH = model({name: batch[name] for name in ("input_ids", "attention_mask")})
    return logits_BC, pooled_BH


@torch.no_grad()
def run(model: Any, rows: Sequence[np.ndarray], batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [R, C] and pooled states float32 [R, H] of token rows, without dropout; rows of like length share
    a batch, so that little of it is padding."""
    was_training = model.training
    model.eval()
    by_length = np.argsort([len(row) for row in rows], kind="stable")
    parts = []
    for start in range(0, len(rows), batch):
        own = [torch.from_numpy(rows[row].astype(np.int64)) for row in by_length[start : start + batch]]
        ids_BS = nn.utils.rnn.pad_sequence(own, batch_first=True).to(model.device)
        lengths_B = torch.tensor([len(row) for row in own], device=model.device)
        mask_BS = (torch.arange(ids_BS.shape[1], device=model.device) < lengths_B[:, None]).long()
        outputs = scored(model, {"input_ids": ids_BS, "attention_mask": mask_BS})
        parts.append([value.float().cpu().numpy() for value in outputs])
    model.train(was_training)
    back = np.argsort(by_length)
    logits, pooled = (np.concatenate([part[index] for part in parts])[back] for index in (0, 1))
    return logits, pooled


def pretrained(weights: str, classes: int, seed: int) -> TextClassifier:
    """The encoder of `weights` with a fresh seeded head."""
    torch.manual_seed(seed)
    return TextClassifier(bare_of(locate(weights)), classes)


def build(params: Mapping[str, Any], max_tokens: int, classes: int, teacher: str, seed: int) -> TextClassifier:
    """A fresh student on the encoder of `fresh`, with a fresh head."""
    return TextClassifier(fresh(params, max_tokens, teacher, seed), classes)


def fresh(params: Mapping[str, Any], max_tokens: int, teacher: str, seed: int) -> Any:
    """A fresh BERT whose token embeddings are the leading principal components of the teacher's (same vocabulary).

    `teacher` is a folder or hub id. Raises RecipeError when `params` do not fit each other.
    """
    from transformers import BertConfig, BertModel

    p = EncoderParams.parse(params, at="student.params")
    table_VE: Tensor = bare_of(teacher).get_input_embeddings().weight.detach()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(table_VE), hidden_size=p.hidden_size, num_hidden_layers=p.layers, num_attention_heads=p.heads,
        intermediate_size=p.inner_size, hidden_act=p.activation, max_position_embeddings=max_tokens, type_vocab_size=1,
        hidden_dropout_prob=p.dropout, attention_probs_dropout_prob=p.dropout,
    )  # fmt: skip
    encoder: Any = BertModel(config, add_pooling_layer=False)
    components_VK = principal(table_VE, p.hidden_size)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[:, : components_VK.shape[1]] = components_VK
    return encoder


def principal(table_VE: Tensor, width: int) -> Tensor:
    """The rows' coordinates along the `width` (or E, if fewer) directions of largest variance, float32 [V, K]."""
    centred_VE = (table_VE - table_VE.mean(0)).double()
    _, directions_EE = torch.linalg.eigh(centred_VE.T @ centred_VE)  # ascending
    leading_EK = directions_EE.flip(1)[:, :width]
    # An eigenvector's sign is free; fixed, so that two machines start from the same weights.
    signs_K = leading_EK.gather(0, leading_EK.abs().argmax(0, keepdim=True)).sign()
    coordinates_VK: Tensor = centred_VE @ (leading_EK * signs_K)
    return coordinates_VK.float()


def save(model: nn.Module, folder: Path, labels: Sequence[str] = ()) -> None:
    """Write encoder and head as float32, whatever they were trained in, and the code that plain transformers reads both
    with; `labels` name the classes in it."""
    own: Any = model
    inner = own.encoder.base_model_prefix
    state = {f"{inner}.{name}": value for name, value in _plain(own.encoder.state_dict()).items()}
    state |= {f"{published.HEAD}.{name}": value for name, value in _plain(own.head.state_dict()).items()}
    with quiet():
        own.encoder.save_pretrained(str(folder), state_dict=state)
    published.texts(folder, type(own.config).__name__, own.head.out_features, labels)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().float().cpu().contiguous() for name, value in state.items()}


def load(folder: str | Path) -> TextClassifier:
    """The classifier of a folder written by `save`, in evaluation mode."""
    head = _head(Path(folder))
    model = TextClassifier(bare_of(str(folder)), len(head["bias"]))
    model.head.load_state_dict(head)
    return model.eval()


def _head(folder: Path) -> dict[str, Tensor]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    if (folder / HEAD).is_file():  # folders of before 0.8 kept the head in a file of its own
        return load_file(str(folder / HEAD))
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        return {name: file.get_tensor(f"{published.HEAD}.{name}") for name in ("weight", "bias")}


def bare_of(source: str) -> Any:
    """The bare encoder in float32, without the pooling layer that nothing here reads."""
    from transformers import AutoConfig, AutoModel

    auto: Any = AutoModel
    with torch.device("meta"):
        kind = type(auto.from_config(AutoConfig.from_pretrained(source)))
    with quiet():
        return kind.from_pretrained(source, dtype=torch.float32, **_poolerless(kind))


def bare(kind: Any, config: Any) -> Any:
    """A fresh encoder of a transformers class without the pooling layer."""
    return kind(config, **_poolerless(kind))


def _poolerless(kind: Any) -> dict[str, bool]:
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report of the weights left out on purpose."""
    from transformers.utils import logging

    log: Any = logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


class Graph(nn.Module):
    """Token ids [B, S], none of them padding, to logits [B, C]."""

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.encoder, self.head = one_segment.traceable(model.encoder), model.head

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Logits [B, C]."""
        states_BSH = self.encoder(input_ids=ids_BS).last_hidden_state
        # A product, not a mean: ONNX Runtime's ReduceMean sums a lone row in another order than a batch's rows.
        shares_B1S = torch.ones_like(ids_BS, dtype=torch.float32)[:, None] / ids_BS.shape[1]
        logits_BC: Tensor = self.head((shares_B1S @ states_BSH)[:, 0])
        return logits_BC


def export(model: nn.Module, folder: Path, opset: int | None = 17) -> float:
    """Write graph `model` (see `tracing.write`; float32, input_ids int64 [B, S] -> logits [B, C]); the model itself is
    left as it was.

    Returns the largest difference from torch over three shapes, per unit of the largest logit. Raises StepFailed above
    TOLERANCE.
    """
    own: Any = copy.deepcopy(model).eval().float().cpu()
    example_BS = torch.arange(3 * 5).reshape(3, 5) % own.config.vocab_size
    names = {"input_ids": {0: "B", 1: "S"}}, {"logits": {0: "B"}}
    tracing.write(Graph(own), (example_BS,), folder / "model", names, opset)
    error = _difference(own, tracing.opened(folder, "model", opset))
    if error > TOLERANCE:
        raise StepFailed("export", f"the graph differs from torch by {error:.1e}, expected at most {TOLERANCE:.0e}")
    return error


@torch.no_grad()
def _difference(model: TextClassifier, engine: Engine) -> float:
    worst = 0.0
    longest = getattr(model.config, "max_position_embeddings", TRIED)
    for rows, length in ((1, 1), (1, 3), (7, min(TRIED, longest // 2))):  # none of them the traced shape
        ids_BS = torch.randint(
            0, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(length)
        )
        want_BC, _ = model({"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)})
        (got_BC,) = engine({"input_ids": ids_BS.numpy()})
        apart = (torch.from_numpy(got_BC) - want_BC).abs().max() / want_BC.abs().max().clamp_min(1)
        worst = max(worst, float(apart))
    return worst

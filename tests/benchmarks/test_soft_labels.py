"""Soft labels of a real language model over 50,257 tokens: what each cached form costs, and what a student makes of it.

The teacher is trained here on tiny_shakespeare with GPT-2's tokenizer. Students of every form see the same batches from
the same start; the score is KL(teacher, student) at T=1 and the agreement of the likeliest token on validation text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster import schema
from cluster.recipe.labels import LabelsSection
from jobs.data.labels import reader
from jobs.tasks import soft_labels
from jobs.training.losses import LOSSES, Signals
from serving.teachers import Reply

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS, TOKENS = 8, 64  # of a batch
TEACHER_STEPS, STUDENT_STEPS, VALIDATION_ROWS, REPEATS = 300, 80, 16, 24
T1, T2, T4 = 1.0, 2.0, 4.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared texts and GPT-2's tokenizer"),
]

# name -> loss, its parameters, form of the labels (None: every logit)
Arm = tuple[str, dict[str, Any], dict[str, Any] | None]
ARMS: dict[str, Arm] = {
    "full": ("forward_kl", {"temperature": T1}, None),
    "cross_entropy": ("cross_entropy", {}, None),
    "sampled": ("sampled_cross_entropy", {}, {"form": "sampled"}),
    "sampled_independent": ("sampled_cross_entropy", {}, {"form": "sampled", "scheme": "independent"}),
    "top_k": ("top_k_tail", {"temperature": T1}, {"form": "top_k"}),
    "top_k_sampled": ("sampled_cross_entropy", {}, {"form": "top_k_sampled", "likeliest": 48, "draws": 16}),
    "full_t4": ("forward_kl", {"temperature": T4}, None),
    "sampled_t4": ("sampled_cross_entropy", {"temperature": T4}, {"form": "sampled", "temperature": T4}),
}


def gpt2(layers: int, width: int, seed: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_layer": layers, "n_embd": width, "n_head": 4, "n_positions": TOKENS}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


@pytest.fixture(scope="module")
def text() -> dict[str, np.ndarray]:
    """Token ids int64 [tokens] of both splits."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = SHARED / "tokenizers"
    model = models.BPE.from_file(str(folder / "gpt2_encoder.json"), str(folder / "gpt2_vocab.bpe"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out = {}
    for split in ("train", "validation"):
        rows = pq.read_table(SHARED / "generation" / f"tiny_shakespeare_{split}.parquet")["text"].to_pylist()
        out[split] = np.array(tokenizer.encode("\n".join(rows)).ids, np.int64)
    return out


def batches(ids: np.ndarray, rows: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        starts = rng.integers(0, len(ids) - TOKENS - 1, rows)
        yield torch.from_numpy(np.stack([ids[start : start + TOKENS + 1] for start in starts]))


def optimiser(model: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, foreach=True)


@pytest.fixture(scope="module")
def teacher(text: dict[str, np.ndarray]) -> Any:
    torch.set_num_threads(1)
    model = gpt2(4, 128, 0)
    steps = optimiser(model, 3e-3)
    for step, batch in enumerate(batches(text["train"], ROWS, TEACHER_STEPS, 1)):
        steps.param_groups[0]["lr"] = 3e-3 * (1 - step / TEACHER_STEPS) + 1e-4
        logits = model(batch[:, :-1]).logits.flatten(0, 1)
        steps.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).backward()
        steps.step()
    return model.eval()


@torch.no_grad()
def logits_of(model: Any, batch: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(batch[:, :-1]).logits.flatten(0, 1)
    return logits


def table(logits: torch.Tensor, settings: dict[str, Any], seed: int) -> pa.Table:
    reply = Reply("", 1.0, np.zeros(len(logits), np.int64), logits.numpy())
    row = soft_labels.record(f"{seed:016x}", reply, False, LabelsSection.parse(settings))
    return schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels")


def loss_of(arm: Arm, student: torch.Tensor, dense: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
    name, params, settings = arm
    sparse = None if settings is None else soft_labels.sparse(table(dense, settings, seed))
    signals = Signals(student, targets, dense if settings is None else None, teacher_sparse=sparse)
    return LOSSES[name].function(signals, LOSSES[name].params.parse(params))


def score(student: Any, teacher: Any, batch: torch.Tensor) -> tuple[float, float]:
    """KL(teacher, student) at T=1 (nats) and agreement of the likeliest token (share)."""
    given, wanted = logits_of(student, batch).log_softmax(-1), logits_of(teacher, batch).log_softmax(-1)
    kl = (wanted.exp() * (wanted - given)).sum(-1).mean()
    return float(kl), float((given.argmax(-1) == wanted.argmax(-1)).float().mean())


def test_bias_and_noise_of_the_gradient_of_every_form(
    teacher: Any, text: dict[str, np.ndarray], record: Callable[..., None]
) -> None:
    batch = next(iter(batches(text["validation"], 1, 1, 5)))[:, : 32 + 1]
    dense, targets = logits_of(teacher, batch), batch[:, 1:].flatten()
    student = logits_of(gpt2(2, 64, 3), batch)
    for temperature in (T1, T2, T4):
        own = student.clone().requires_grad_()

        def gradient(arm: Arm, seed: int, own: torch.Tensor = own) -> torch.Tensor:
            (found,) = torch.autograd.grad(loss_of(arm, own, dense, targets, seed), own)
            return found

        full = gradient(("forward_kl", {"temperature": temperature}, None), 0)
        for form in ("sampled", "top_k_sampled", "top_k"):
            more = {"likeliest": 48, "draws": 16} if form == "top_k_sampled" else {}
            settings = {"form": form, "temperature": temperature, **more}
            loss = "top_k_tail" if form == "top_k" else "sampled_cross_entropy"
            repeats = 1 if form == "top_k" else REPEATS
            mean, square = torch.zeros_like(full), 0.0
            for seed in range(repeats):
                found = gradient((loss, {"temperature": temperature}, settings), seed)
                mean += found / repeats
                square += float((found - full).pow(2).sum()) / repeats
            off = float((mean - full).pow(2).sum())
            noise = max(0.0, (square - off) * repeats / max(1, repeats - 1))
            bias = max(0.0, off - noise / repeats) ** 0.5 / float(full.norm())
            size = float(full.norm())
            record(
                f"soft_labels_gradient_{form}_t{temperature:g}", f"bias of the gradient of {form} at T={temperature:g}",
                round(bias, 4), "share of the full gradient's norm", peer="full vocabulary", peer_value=0.0,
                noise=round(noise**0.5 / size, 4), repeats=repeats,
            )  # fmt: skip


def students(teacher: Any, start: Any, text: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """KL and agreement of a student per arm after equal steps on the same batches."""
    models = {name: copy.deepcopy(start) for name in ARMS}
    steps = {name: optimiser(model, 3e-3) for name, model in models.items()}
    for step, batch in enumerate(batches(text["train"], ROWS, STUDENT_STEPS, 7)):
        dense, targets = logits_of(teacher, batch), batch[:, 1:].flatten()
        for name, model in models.items():
            steps[name].param_groups[0]["lr"] = 3e-3 * (1 - step / STUDENT_STEPS) + 1e-5
            steps[name].zero_grad()
            loss_of(ARMS[name], model(batch[:, :-1]).logits.flatten(0, 1), dense, targets, step).backward()
            steps[name].step()
    held_out = next(iter(batches(text["validation"], VALIDATION_ROWS, 1, 11)))
    return {name: score(model.eval(), teacher, held_out) for name, model in models.items()}


@pytest.mark.parametrize("start", ["scratch", "teacher_initialised"])
def test_students_of_every_form_after_equal_steps(
    start: str, teacher: Any, text: dict[str, np.ndarray], record: Callable[..., None]
) -> None:
    if start == "scratch":
        first = gpt2(2, 64, 3)
    else:  # every second layer of the teacher, and its embeddings
        first = copy.deepcopy(teacher).train()
        first.transformer.h = torch.nn.ModuleList([first.transformer.h[0], first.transformer.h[2]])
    found = students(teacher, first, text)
    for name, (kl, agreement) in found.items():
        full_kl = found["full_t4" if name.endswith("_t4") else "full"][0]
        judged = name.startswith("sampled")
        record(
            f"soft_labels_student_{start}_{name}", f"KL(teacher, student) after {STUDENT_STEPS} steps, {start}, {name}",
            round(kl, 4), "nats at T=1", peer="full vocabulary", peer_value=round(full_kl, 4), agreement=agreement,
            bar="<= 1.05 of full vocabulary" if judged else None, passed=kl <= 1.05 * full_kl if judged else None,
        )  # fmt: skip


def test_bytes_per_token_on_disk(
    teacher: Any, text: dict[str, np.ndarray], record: Callable[..., None], tmp_path: Path
) -> None:
    forms = {name: arm[2] for name, arm in ARMS.items() if arm[2] is not None} | {
        "sampled_t4": {"form": "sampled", "temperature": T4}
    }
    parts: dict[str, list[pa.Table]] = {name: [] for name in forms}
    for number, batch in enumerate(batches(text["train"], ROWS, 8, 13)):
        dense = logits_of(teacher, batch)
        for name, settings in forms.items():
            parts[name].append(table(dense, settings, number))
    for name, tables in parts.items():
        reader.write(pa.concat_tables(tables), tmp_path / "labels.parquet")
        size = reader.sizes(tmp_path / "labels.parquet")["label"]
        judged = name == "sampled"
        record(
            f"soft_labels_bytes_{name}", f"soft labels on disk, {name}", size, "bytes per token", peer="dense float16",
            peer_value=2 * 50257, bar="<= 100" if judged else None, passed=size <= 100 if judged else None,
        )  # fmt: skip

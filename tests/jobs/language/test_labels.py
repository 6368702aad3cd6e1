"""What the teacher says of a text, from its forward pass to the gradient of a student: stored, packed, read again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import schema
from cluster.recipe import Recipe
from cluster.recipe.labels import LabelsSection
from jobs.tasks import packed_labels, soft_labels
from jobs.training import table
from jobs.training.losses import LOSSES, Signals
from serving.teachers import Reply

FORMS = ("sampled", "top_k", "top_k_sampled")
Labelled = Callable[[Recipe], Any]


def loss(name: str, signals: Signals, temperature: float) -> torch.Tensor:
    return LOSSES[name].function(signals, LOSSES[name].params.parse({"temperature": temperature}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_labels_are_the_stored_ones(
    form: str, temperature: float, language: Callable[..., Recipe], labelled: Labelled, tmp_path: Any
) -> None:
    settings = {"form": form, "draws": 8, "likeliest": 4, "temperature": temperature}
    task, _, samples, labels = labelled(language(**{"generate.labels": settings}))
    table.write(tmp_path / "packed.arrow", task.pack(samples, labels, False))
    packed = table.read(tmp_path / "packed.arrow")
    rows = np.arange(len(samples))
    batch = task.batch(packed, rows)
    ours, stored = packed_labels.sparse_of(batch), soft_labels.sparse(labels)
    assert ours is not None and ours.temperature == temperature
    assert torch.equal(ours.valid_QK, stored.valid_QK)
    assert torch.equal(ours.weights(temperature, False), stored.weights(temperature, False))
    tokens = np.concatenate([np.asarray(one) for one in labels["tokens"].to_pylist()])
    np.testing.assert_array_equal(batch["targets"].numpy(), tokens)
    student = task.scored(task.build(task.recipe.student, 1), batch)[0]
    for name in ["sampled_cross_entropy"] + ["top_k_tail"] * (form != "sampled"):
        values = [
            loss(name, Signals(student, batch["targets"], teacher_sparse=own), temperature) for own in (ours, stored)
        ]
        assert torch.equal(*values) and torch.isfinite(values[0])


def test_the_teacher_scores_the_text_as_it_stands(language: Callable[..., Recipe], labelled: Labelled) -> None:
    task, folder, samples, labels = labelled(language(**{"generate.labels.form": "dense"}))
    assert samples["response"].to_pylist() == samples["prompt"].to_pylist()
    columns = task.pack(samples, labels, False)
    batch = task.batch(columns, np.arange(4))
    with torch.no_grad():
        logits_QV, hidden_QH = task.scored(task.load(str(folder)), batch)
    apart = (batch["teacher_logits"] - logits_QV).std(-1)  # stored minus the maximum, which changes no distribution
    assert apart.max() < 2e-3
    assert (batch["teacher_hidden"] - hidden_QH).abs().max() < 0.02 * hidden_QH.abs().max()
    log_p_QV = logits_QV.log_softmax(-1)
    entropy_Q = -(log_p_QV.exp() * log_p_QV).sum(-1)
    torch.testing.assert_close(batch["teacher_entropy"], entropy_Q, atol=5e-3, rtol=0)


def test_the_whole_vocabulary_in_float32_gives_the_gradient_of_an_online_teacher(
    language: Callable[..., Recipe], labelled: Labelled, tmp_path: Any, record_property: Callable[..., None]
) -> None:
    task, folder, samples, labels = labelled(language(**{"generate.labels.form": "dense"}))
    columns, rows = task.pack(samples, labels, False), np.arange(len(samples))
    with torch.no_grad():
        batch = task.batch(columns, rows)
        online_QV = task.scored(task.load(str(folder)), batch)[0]
    exact = np.zeros(columns["teacher_logits"].shape, np.float32)
    exact[np.arange(exact.shape[1]) < columns["answer"][:, None]] = online_QV.numpy()
    gradients = {}
    for name, own in (("float32", {**columns, "teacher_logits": exact}), ("float16", columns), ("online", None)):
        if own is not None:
            table.write(tmp_path / f"{name}.arrow", own)
            batch = task.batch(table.read(tmp_path / f"{name}.arrow"), rows)
        teacher_QV = online_QV if own is None else batch["teacher_logits"]
        student = task.build(task.recipe.student, 1)
        signals = Signals(task.scored(student, batch)[0], batch["targets"], teacher_QV)
        loss("forward_kl", signals, 4.0).backward()  # type: ignore[no-untyped-call]
        gradients[name] = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    size = gradients["online"].norm()
    off = {name: float((gradients[name] - gradients["online"]).norm() / size) for name in ("float32", "float16")}
    record_property("relative_error_float16", off["float16"])
    assert off["float32"] <= 1e-5
    assert off["float16"] <= 1e-2


def test_a_prompt_gets_an_answer_with_labels_of_its_own_tokens(
    language: Callable[..., Recipe], labelled: Labelled
) -> None:
    changes = {"data.text_column": "prompt", "data.params.prompt_column": "prompt", "generate.temperature": 1.0}
    task, _, samples, labels = labelled(language(**changes))
    lengths = [len(tokens) for tokens in labels["tokens"].to_pylist()]
    assert max(lengths) <= task.params.max_new_tokens
    columns = task.pack(samples, labels, False)
    np.testing.assert_array_equal(columns["answer"], lengths)
    assert (columns["context"] > 1).all()
    control = task.pack(samples, None, True)
    np.testing.assert_array_equal(control["context"], columns["context"])


def test_the_mean_gradient_over_many_draws_is_that_of_the_whole_vocabulary(
    language: Callable[..., Recipe], labelled: Labelled
) -> None:
    task, _, samples, labels = labelled(language(**{"generate.labels.form": "dense"}))
    batch = task.batch(task.pack(samples, labels, False), np.arange(2))
    dense = batch["teacher_logits"]
    student = task.scored(task.build(task.recipe.student, 1), batch)[0].detach().requires_grad_()

    def gradient(name: str, **given: Any) -> torch.Tensor:
        signals = Signals(student, batch["targets"], **given)
        found: torch.Tensor = torch.autograd.grad(loss(name, signals, 1.0), student)[0]
        return found

    full, off = gradient("forward_kl", teacher_logits_QV=dense), {}
    total = torch.zeros_like(full)

    reply = Reply("", 1.0, np.zeros(len(dense), np.int64), dense.numpy())
    for draw in range(200):
        row = soft_labels.record(f"{draw:016x}", reply, False, LabelsSection(form="sampled", draws=32))

        stored = schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels")
        total = total + gradient("sampled_cross_entropy", teacher_sparse=soft_labels.sparse(stored))
        off[draw + 1] = float((total / (draw + 1) - full).norm() / full.norm())
    assert off[200] < off[1] / 8  # an unbiased mean comes nearer like one over the root: 14 times after 200 draws

"""Means over positions in chunks: the same values and gradients, and no second tensor of the logits' size."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from jobs.training import positions
from jobs.training.losses import LOSSES, Signals

# Those of a few tokens have their own table of signals: tests/jobs/labels/test_sparse_losses.py.
FOCUSED = sorted(name for name, loss in LOSSES.items() if loss.focused and "teacher_sparse" not in loss.needs)


def run(name: str, given: Signals) -> tuple[torch.Tensor, torch.Tensor]:
    given.student_logits_QV.grad = None
    loss = LOSSES[name].function(given, LOSSES[name].params.parse({}))
    loss.backward()
    assert given.student_logits_QV.grad is not None
    return loss.detach(), given.student_logits_QV.grad


@pytest.mark.parametrize("name", FOCUSED)
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_give_the_value_and_the_gradient_of_the_whole(
    name: str, weighted: bool, signals: Callable[..., Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = signals(scale=3.0)
    if weighted:
        given = replace(given, weights_Q=torch.arange(12.0))
    value, gradient = run(name, given)
    monkeypatch.setattr(positions, "CHUNK", 5 * 7)  # 12 positions: 5, 5 and 2
    in_chunks, chunked = run(name, given)
    torch.testing.assert_close(in_chunks, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(chunked, gradient, rtol=1e-6, atol=1e-12)


def peak_bytes(name: str, given: Signals) -> int:
    """Most bytes allocated at once on the way forward and back, beside what was there before."""
    from torch.profiler import ProfilerActivity, profile

    given.student_logits_QV.grad = None  # what is freed later would be counted as taken off
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run(name, given)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", FOCUSED)
def test_beside_the_gradient_nothing_of_a_batch_times_a_vocabulary_exists(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1024, 256, generator=generator) for _ in range(2))
    given = Signals(student.requires_grad_(), teacher.argmax(-1), teacher)
    one = student.numel() * 4
    whole = peak_bytes(name, given)
    monkeypatch.setattr(positions, "CHUNK", 16 * 256)
    chunked = peak_bytes(name, given)
    assert one <= chunked < 1.3 * one < 1.9 * one < whole


def test_a_chunked_loss_goes_backward_once_and_says_so(
    signals: Callable[..., Signals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "CHUNK", 5 * 7)
    given = signals()
    loss = LOSSES["forward_kl"].function(given, LOSSES["forward_kl"].params.parse({}))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes backward once"):
        loss.backward()
    with torch.no_grad():
        assert not LOSSES["forward_kl"].function(given, LOSSES["forward_kl"].params.parse({})).requires_grad


def test_half_precision_logits_are_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 5000, generator=generator) for _ in range(2))
    rounded = student.to(torch.bfloat16)
    halves = LOSSES["forward_kl"].function(
        Signals(rounded, teacher.argmax(-1), teacher), LOSSES["forward_kl"].params.parse({})
    )
    exact = LOSSES["forward_kl"].function(
        Signals(rounded.double(), teacher.argmax(-1), teacher.double()), LOSSES["forward_kl"].params.parse({})
    )
    assert halves.dtype == torch.float32
    assert halves.item() == pytest.approx(exact.item(), rel=1e-4)

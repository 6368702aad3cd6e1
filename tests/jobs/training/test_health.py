"""A training that makes no sense any more ends with a status, a diagnosis and what to do, and keeps its checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.errors import StepFailed
from cluster.recipe import EngineSection, Recipe
from jobs.training import health
from jobs.training.health import Memory, Pulse, Stopped, Where
from jobs.training.loop import Job
from jobs.training.runner import run_local

HERE = Where("soft_labels", 7, {"forward_kl": 0.4, "cross_entropy": 1.2}, 0.001)


def test_a_diagnosis_says_stage_step_terms_rate_and_norm() -> None:
    pulse = Pulse(EngineSection(gradient_max=10.0))
    with pytest.raises(Stopped) as stopped:
        for _ in range(health.LOOKS):
            pulse.look(1e5, HERE)
    told = "soft_labels, step 7: the gradient explodes: norm 1e+05 above 10 "
    told += "(loss terms: forward_kl 0.4, cross_entropy 1.2; learning rate 0.001)"
    assert (stopped.value.status, stopped.value.reason) == ("exploding", told)


def test_one_bad_batch_is_no_explosion_and_a_solved_task_no_vanishing() -> None:
    pulse = Pulse(EngineSection(gradient_max=10.0))
    for _ in range(5):
        pulse.look(1e5, HERE)
        pulse.look(1.0, HERE)
        pulse.look(0.0, Where("s", 1, {"forward_kl": 0.0}, 0.1))
    with pytest.raises(Stopped, match="vanishes"):
        for _ in range(health.LOOKS):
            pulse.look(0.0, HERE)


def test_a_gradient_that_is_no_number_stops_at_once() -> None:
    with pytest.raises(Stopped, match="norm is nan"):
        Pulse(EngineSection()).look(float("nan"), HERE)


@pytest.mark.parametrize(("knob", "status"), [("gradient_max=1.0e-9", "explodes"), ("gradient_min=1.0e9", "vanishes")])
@pytest.mark.parametrize("zero", [0, 1])
def test_a_run_ends_at_the_limit_with_its_last_good_checkpoint(
    tiny_digits: Callable[..., Recipe], make_job: Callable[..., Job], tmp_path: Path, knob: str, status: str, zero: int
) -> None:
    recipe = tiny_digits(f"fit.engine.{knob}", f"fit.engine.zero_stage={zero}", "fit.engine.checkpoint_every=1")
    with pytest.raises(StepFailed, match=status) as failed:
        run_local(make_job(recipe), tmp_path / "run")
    last = Path(str(failed.value.hint).rpartition(" ")[2])
    assert json.loads((last / "state.json").read_text())["step"] == health.LOOKS - 1


def test_the_end_of_memory_is_a_status_and_not_a_crash(
    tiny_digits: Callable[..., Recipe],
    make_job: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs.training.engine import Engine

    monkeypatch.setattr(Engine, "forward", lambda self, batch: torch.empty(1 << 50))  # a petabyte: torch's own refusal
    with pytest.raises(StepFailed, match=r"no memory left: .*can.t allocate memory") as failed:
        run_local(make_job(tiny_digits()), tmp_path / "run")
    assert "engine.micro_batch" in str(failed.value.hint)


def test_beside_other_ranks_the_next_attempt_of_the_group_stops(tmp_path: Path) -> None:
    note = tmp_path / "distill.stopped"
    with pytest.raises(MemoryError), Memory(note, world=2)():
        raise MemoryError("8 GiB")
    with pytest.raises(Stopped, match="8 GiB") as stopped, Memory(note, world=2)():
        pytest.fail("training went on")
    assert stopped.value.status == "out_of_memory"


def test_other_errors_are_not_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), Memory(tmp_path / "note", world=1)():
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_the_kernels_count_of_killed_processes_is_read_in_both_versions(tmp_path: Path, name: str, text: str) -> None:
    assert health.kernel_kills(tmp_path) == 0
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert health.kernel_kills(tmp_path) == 2


def test_a_worker_that_was_ended_for_memory_is_told_from_one_that_crashed() -> None:
    ended = RuntimeError("worker died. Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed")
    assert "memory monitor" in str(health.death_by_memory(ended, health.kernel_kills()))
    crashed = RuntimeError("(1) the process is killed by SIGKILL by OOM killer due to high memory usage")
    assert health.death_by_memory(crashed, health.kernel_kills()) is None
    assert "kernel" in str(health.death_by_memory(crashed, -1))

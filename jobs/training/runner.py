"""The two places a training run can live: this process (tests, Tune trials) and Ray Train (what `make run` uses).

Both give the same losses bit for bit at one worker; the same name and storage folder is the restore.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import StepFailed
from jobs.training.loop import Job, train

LATEST = "latest.json"


@dataclass(frozen=True)
class Trained:
    """A finished run: its progress (see `jobs.training.state.Progress`) and the folder of its last checkpoint."""

    progress: Mapping[str, Any]
    checkpoint: Path

    @property
    def weights(self) -> Path:
        """The trained network as a Hugging Face folder."""
        return self.checkpoint / "hf"


class LocalIo:
    """Runs in this process: checkpoints are folders below `root`, the newest named by a file that is replaced whole."""

    rank, world = 0, 1

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def scratch(self) -> Path:
        """A new folder for one checkpoint."""
        return Path(tempfile.mkdtemp(prefix="checkpoint-", dir=self.root))

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        pointer = self.root / LATEST
        return self.root / json.loads(pointer.read_text())["folder"] if pointer.is_file() else None

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        """Make `folder` the newest checkpoint and drop the one before."""
        before = self.last_checkpoint()
        aside = self.root / f"{LATEST}.new"
        aside.write_text(json.dumps({"folder": folder.name, **metrics}))
        aside.replace(self.root / LATEST)
        if before is not None:
            shutil.rmtree(before)


class RayIo:
    """Runs as a Ray Train worker: checkpoints go to the run's storage, all ranks into one folder."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.world, self.stack = context.get_world_rank(), context.get_world_size(), stack

    def scratch(self) -> Path:
        """A new local folder; Ray uploads and removes it."""
        return Path(tempfile.mkdtemp(prefix="checkpoint-"))

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint of the run's storage, or None."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else Path(self.stack.enter_context(checkpoint.as_directory()))

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        """Upload `folder` as the newest checkpoint; a barrier over all ranks."""
        import ray.train

        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report(dict(metrics), checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)


def run_local(job: Job, storage: Path) -> Trained:
    """Train in this process with one worker; a second call with the same storage goes on or returns what is done."""
    io = LocalIo(storage)
    return _finished(job, train(io, job), io.last_checkpoint())


def run_ray(job: Job, name: str, storage: str) -> Trained:
    """Train under Ray Train with the recipe's workers. The same `name` and `storage` resume; worker deaths are retried.

    Raises StepFailed when the workers failed more often than the recipe allows, or when training diverged.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    engine = job.engine
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = resources.get("GPU", 0) >= engine.workers
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=engine.workers, use_gpu=gpus, resources_per_worker={"CPU": 1} | ({"GPU": 1} if gpus else {})
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=engine.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise StepFailed(
            job.arm, f"training workers failed: {error}", f"their logs are under {storage}; run again to resume"
        ) from error
    if result.checkpoint is None:
        raise StepFailed(job.arm, "training ended without a checkpoint", "this is a defect: please report it")
    folder = Path(result.checkpoint.path)
    return _finished(job, json.loads((folder / "state.json").read_text()), folder)


def _worker(config: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        train(RayIo(stack), config["job"])


def _finished(job: Job, progress: Mapping[str, Any], checkpoint: Path | None) -> Trained:
    if progress["status"] != "done" or checkpoint is None:
        hint = "lower the stage's learning_rate or gradient_clip; the last good checkpoint is kept"
        raise StepFailed(job.arm, str(progress["reason"] or f"status {progress['status']}"), hint)
    return Trained(progress, checkpoint)

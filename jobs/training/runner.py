"""The two places a training run can live: this process (tests, Tune trials) and Ray Train (what `make run` uses).

Both give the same losses bit for bit at one worker; the same name and storage folder is the restore.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import StepFailed
from cluster.recipe import EngineSection
from cluster.session import nodes, placed
from jobs.training import health, rows, streamed
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

    def stream(self, plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
        """Each step's rows when they are asked for."""
        return rows.here(plan, uri)


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

    def stream(self, plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
        """Each step's rows, read ahead by Ray Data."""
        return streamed.ahead(plan, uri)


def run_local(job: Job, storage: Path) -> Trained:
    """Train in this process with one worker; a second call with the same storage goes on or returns what is done.

    Raises StepFailed when training stopped (see `jobs.training.health`); the last good checkpoint stays in `storage`.
    """
    io = LocalIo(storage)
    return _finished(job, train(io, job), io.last_checkpoint())


def run_ray(job: Job, name: str, storage: str) -> Trained:
    """Train under Ray Train with the recipe's workers. The same `name` and `storage` resume; worker deaths are retried.

    Raises StepFailed when the workers failed more often than the recipe allows, or when training stopped.
    """
    import ray.train.torch

    from jobs.training.rendezvous import Rendezvous

    v2: Any = ray.train  # what is annotated is Train V1
    gpus = _on_gpus(job.engine)
    kills = health.kernel_kills()
    health.note_of(job.table).unlink(missing_ok=True)  # said to an earlier attempt of whoever starts this one
    trainer = v2.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "folder": Path.cwd()},
        torch_config=Rendezvous(backend="nccl" if gpus else "gloo"),
        scaling_config=_scaling(job.engine, gpus),
        run_config=v2.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=v2.FailureConfig(
                max_failures=job.engine.max_failures,
                # For ever by default, also where no worker group can be placed any more.
                controller_failure_limit=job.engine.max_failures,
            ),
            checkpoint_config=v2.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except v2.TrainingFailedError as error:
        memory = health.death_by_memory(error, kills)
        what = f"training workers failed: {error}" if memory is None else f"out_of_memory: {memory}"
        hint = f"their logs are under {storage}; run again to resume"
        if memory is not None:
            hint = f"{health.ADVICE['out_of_memory']}; {hint}"
        raise StepFailed(job.arm, what, hint) from error
    return _finished(job, result.return_value, None if result.checkpoint is None else Path(result.checkpoint.path))


def _on_gpus(engine: EngineSection) -> bool:
    """Whether the nodes that training may run on have a GPU for every worker."""
    own: list[dict[str, float]] = [node["Resources"] for node in nodes("train")]
    return sum(has.get("GPU", 0) for has in own if not engine.placed_on or engine.placed_on in has) >= engine.workers


def _scaling(engine: EngineSection, gpus: bool) -> Any:
    """Ray Train's ScalingConfig: a range of workers where the recipe says how few may go on, and what each takes."""
    import ray.train

    v2: Any = ray.train
    resources = {"CPU": 1.0} | ({"GPU": 1.0} if gpus else {}) | ({engine.placed_on: 1.0} if engine.placed_on else {})
    fewest = engine.workers if engine.min_workers is None else engine.min_workers
    number = engine.workers if fewest == engine.workers else (fewest, engine.workers)
    return v2.ScalingConfig(num_workers=number, use_gpu=gpus, resources_per_worker=resources, **placed("train"))


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    # Ray Train moves its workers into a folder of its own; a recipe's relative paths are those of whoever starts it.
    if config["folder"].is_dir():
        os.chdir(config["folder"])
    with contextlib.ExitStack() as stack:
        return train(RayIo(stack), config["job"])


def _finished(job: Job, progress: Mapping[str, Any], checkpoint: Path | None) -> Trained:
    if progress["status"] == "done" and checkpoint is not None:
        return Trained(progress, checkpoint)
    kept = "there is no checkpoint yet" if checkpoint is None else f"the last good checkpoint is {checkpoint}"
    raise StepFailed(job.arm, str(progress["reason"]), f"{health.ADVICE[progress['status']]}; {kept}")

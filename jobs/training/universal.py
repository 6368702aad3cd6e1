"""ZeRO checkpoints for another number of workers: DeepSpeed's universal form, which any number of them can load.

Of the same ZeRO stage only (findings/training.md 5: another stage fails without a message).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from cluster.errors import StepFailed

UNIVERSAL = "ds_universal"


def converted(folder: Path, tag: str) -> str:
    """Tag of the universal form of checkpoint `tag` below `folder`, made now if it is not there. Every rank calls it.

    One rank of each node converts, in a folder of its own that is renamed when it is whole. Raises StepFailed where
    the conversion fails.
    """
    if int(os.environ["LOCAL_RANK"]) == 0 and not (folder / UNIVERSAL).is_dir():
        _convert(folder, tag)
    dist.barrier()
    return UNIVERSAL


def _convert(folder: Path, tag: str) -> None:
    aside = folder / f"{UNIVERSAL}.{os.getpid()}"
    # A process of its own: DeepSpeed's script is one, and forks workers, which a process with threads should not do.
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal",
        "--input_folder", str(folder / tag), "--output_folder", str(aside),
        "--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepFailed(
            "training", f"checkpoint {folder} could not be converted: {done.stderr[-500:]}", "run with as many workers"
        )
    try:
        aside.rename(folder / UNIVERSAL)
    except OSError:  # another node was faster, on a shared file system
        shutil.rmtree(aside)

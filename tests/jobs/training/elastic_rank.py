"""One rank of a training without Ray: `python elastic_rank.py JOB STORAGE RANK WORLD STOP_AFTER_REPORTS`."""

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["LOCAL_RANK"] = os.environ["RANK"] = sys.argv[3]

import deepspeed  # noqa: F401 - its logger, before the group
import torch.distributed as dist

from jobs.training import loop, rows

loop.LOG_EVERY = 1


class GroupIo:
    """All ranks' checkpoints in one folder, as Ray Train merges them."""

    def __init__(self, root: Path, left: int) -> None:
        self.rank, self.world, self.root, self.left = dist.get_rank(), dist.get_world_size(), root, left

    stream = staticmethod(rows.here)

    def scratch(self) -> Path:
        made = [tempfile.mkdtemp(dir=self.root) if self.rank == 0 else None]
        dist.broadcast_object_list(made)
        return Path(str(made[0]))

    def last_checkpoint(self) -> Path | None:
        pointer = self.root / "latest.json"
        return Path(json.loads(pointer.read_text())) if pointer.is_file() else None

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        dist.barrier()
        if self.rank == 0:
            (self.root / "latest.json").write_text(json.dumps(str(folder)))
        dist.barrier()
        self.left -= 1
        if not self.left:
            os._exit(0)  # as a kill would, once the checkpoint is in place


job, root = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
rank, world = int(sys.argv[3]), int(sys.argv[4])
store = dist.FileStore(str(root / f"group-{world}-{sys.argv[6]}"), world)
dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
loop.train(GroupIo(root, int(sys.argv[5])), job)
os._exit(0)

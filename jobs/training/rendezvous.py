"""Where the ranks of a run meet: as Ray Train has it, but on loopback alone where the cluster lives there.

PyTorch's store listens on all interfaces whatever address it is given; handed a socket that is bound, it stays there.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from torch._C._distributed_c10d import TCPStore  # torch.distributed has it too, and does not say so

from cluster.session import on_loopback

LOOPBACK = "127.0.0.1"
_hosted: list[TCPStore] = []  # rank 0's, alive as long as its process


@dataclass
class Rendezvous(TorchConfig):
    """Ray Train's `TorchConfig` (backend, seconds to time out) with ranks of a loopback cluster that meet there."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train starts the ranks with."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the ranks into one process group; every worker is a process of its own already."""
        if not all(worker_group.execute(on_loopback)):
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        port, world = worker_group.execute_single(0, _host), len(worker_group)
        ray.get([
            worker_group.execute_single_async(rank, _join, backend_config, port, rank, world) for rank in range(world)
        ])  # fmt: skip


def _host() -> int:
    """In rank 0: serve the store on loopback; returns its port."""
    bound = socket.socket()
    bound.bind((LOOPBACK, 0))
    port = int(bound.getsockname()[1])
    # The descriptor is the store's from here on.
    _hosted.append(TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=bound.detach()))
    return port


def _join(config: TorchConfig, port: int, rank: int, world: int) -> None:
    """In every rank: the process group over rank 0's store."""
    os.environ.update(MASTER_ADDR=LOOPBACK, MASTER_PORT=str(port))  # read by DeepSpeed and by whoever prints where
    timeout = timedelta(seconds=config.timeout_s)
    store = _hosted[-1] if rank == 0 else TCPStore(LOOPBACK, port, is_master=False, timeout=timeout)
    dist.init_process_group(config.backend, store=store, rank=rank, world_size=world, timeout=timeout)

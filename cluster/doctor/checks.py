"""What the nodes' reports mean: fine, a warning, or something that blocks a run; each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster import pins
from cluster.doctor.probe import NodeReport

Status = Literal["ok", "warn", "block"]

DISK_BLOCK, DISK_WARN = 2 << 30, 10 << 30  # bytes; the first is what jobs.pipeline refuses to start below
DISK_FULL = 0.95  # share at which Ray stops to spill (local_fs_capacity_threshold)
SHM_SHARE = 1.0  # of the object store: where /dev/shm is smaller, Ray falls back to disk
WRITE_MB_S = 20.0  # MB/s; a default run writes about 1 GB of tables and checkpoints
SKEW_WARN_S, SKEW_BLOCK_S = 1.0, 15.0  # the store's leases are renewed every 10 s and expire after 30 s
TRAIN_MEMORY = 2 << 30  # bytes


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, where ("" for all nodes), how it is, and what to do when it is not fine."""

    name: str
    status: Status
    found: str
    todo: str = ""
    node: str = ""


@dataclass(frozen=True)
class Cluster:
    """What is judged: the versions here, the nodes' reports, and whether the Jobs API let us in without a token.

    `open_door` is None where it was not tried; `loopback` says that all of it listens on this machine alone.
    """

    here: Mapping[str, str]
    reports: Sequence[NodeReport]
    dead: int
    loopback: bool
    open_door: bool | None = None


def judge(cluster: Cluster) -> list[Check]:
    """Return all findings, in the order a person would fix them."""
    found = [*_nodes(cluster), *_authentication(cluster)]
    for report in cluster.reports:
        for look in PER_NODE:
            found += look(cluster, report)
    return found


def blocked(checks: Sequence[Check]) -> bool:
    """Tell whether something must be fixed before a run."""
    return any(check.status == "block" for check in checks)


def _nodes(cluster: Cluster) -> Iterator[Check]:
    cpus = sum(report.resources.get("CPU", 0.0) for report in cluster.reports)
    gpus = sum(report.resources.get("GPU", 0.0) for report in cluster.reports)
    memory = sum(report.resources.get("memory", 0.0) for report in cluster.reports)
    told = f"{len(cluster.reports)} nodes, {cpus:g} CPUs, {gpus:g} GPUs, {memory / 2**30:.1f} GiB for tasks"
    if cpus < 1:
        yield Check("resources", "block", told, "start a node with at least one CPU (ray start --num-cpus)")
    elif memory < TRAIN_MEMORY:
        yield Check("resources", "warn", told, "under 2 GiB trainings may be ended by the memory monitor")
    else:
        yield Check("resources", "ok", told)
    if cluster.dead:
        yield Check("nodes", "warn", f"{cluster.dead} nodes have left", "see their logs, or start them again")


def _authentication(cluster: Cluster) -> Iterator[Check]:
    modes = sorted({report.auth_mode or "unset" for report in cluster.reports})
    told = f"RAY_AUTH_MODE={'/'.join(modes)}"
    if cluster.open_door is False or (cluster.open_door is None and modes == ["token"]):
        yield Check("authentication", "ok", f"{told}: a request without a token is refused")
    elif cluster.loopback:
        todo = "on a machine with other users: python -m cluster up, which makes a token"
        yield Check("authentication", "ok", f"{told}, on loopback only", todo)
    else:
        todo = (
            "start every node with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN: whoever reaches it runs code on it"
        )
        yield Check("authentication", "block", f"{told}: anybody is let in", todo)


def _versions(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    told = pins.differing(cluster.here, report.versions)
    if told:
        found = ", ".join(f"{name} {what}" for name, what in told.items())
        yield Check("versions", "block", found, "use one image on all nodes (python -m cluster manifest)", report.node)
    else:
        found = f"Python {report.versions[pins.PYTHON]}, Ray {report.versions['ray']} and the rest as here"
        yield Check("versions", "ok", found, node=report.node)


def _store(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    if report.store is not None:
        todo = "check the address, the credentials on the nodes (AWS_*), and that the folder is mounted"
        yield Check("store", "block", report.store, todo, report.node)
        return
    speed = f"writes {report.write_mb_s:g} MB/s, reads {report.read_mb_s:g} MB/s"
    if not report.shared and len(cluster.reports) > 1:
        todo = ("steps pass files through the store's workspace: use a folder that all nodes mount, as --store, or as "
                "RAYDISTILL_CACHE in front of a bucket")  # fmt: skip
        yield Check("store", "block", f"{speed}, but this node does not see the driver's files", todo, report.node)
    elif report.write_mb_s is not None and report.write_mb_s < WRITE_MB_S:
        yield Check(
            "store", "warn", speed, f"under {WRITE_MB_S:g} MB/s checkpoints take longer than steps", report.node
        )
    else:
        yield Check("store", "ok", speed, node=report.node)


def _clock(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    off = max(0.0, abs(report.skew_s) - report.skew_within_s)
    found = f"{report.skew_s:+.3f} s (known to {report.skew_within_s:.3f} s)"
    status: Status = "block" if off > SKEW_BLOCK_S else "warn" if off > SKEW_WARN_S else "ok"
    todo = "run chrony or ntpd: leases of the store and signatures of S3 go by the clock"
    yield Check("clock", status, found, "" if status == "ok" else todo, report.node)


def _disk(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    found = f"{report.disk_free / 2**30:.1f} GiB free for Ray, {report.disk_used_share:.0%} used"
    if report.disk_free < DISK_BLOCK:
        yield Check("disk", "block", found, "free some, or move Ray's folder (RAY_TMPDIR)", report.node)
    elif report.disk_free < DISK_WARN or report.disk_used_share > DISK_FULL:
        yield Check("disk", "warn", found, "Ray stops to spill objects at 95 % used", report.node)
    else:
        yield Check("disk", "ok", found, node=report.node)


def _shared_memory(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    wanted = report.resources.get("object_store_memory", 0.0) * SHM_SHARE
    if report.shm_bytes is None:
        return
    found = f"/dev/shm {report.shm_bytes / 2**30:.1f} GiB, object store {wanted / 2**30:.1f} GiB"
    if report.shm_bytes < wanted:
        yield Check("shared memory", "warn", found, "docker run --shm-size, or a Memory emptyDir: else it is a disk",
                    report.node)  # fmt: skip
    else:
        yield Check("shared memory", "ok", found, node=report.node)


def _gpu(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    planned = report.resources.get("GPU", 0.0)
    if not report.gpus and not planned:
        return
    found = f"{'; '.join(report.gpus) or 'no driver'}; Ray plans with {planned:g}; TensorRT {report.tensorrt or 'none'}"
    if planned and not report.gpus:
        yield Check("gpu", "block", found, "nvidia-smi does not run: install the driver, or mount it (--gpus all)",
                    report.node)  # fmt: skip
    elif not report.torch_sees_gpu:
        yield Check("gpu", "warn", found, "this torch is built without CUDA, or for a newer driver", report.node)
    elif not planned:
        yield Check("gpu", "warn", found, "Ray was started without it (ray start --num-gpus)", report.node)
    else:
        yield Check("gpu", "ok", found, node=report.node)


def _network(cluster: Cluster, report: NodeReport) -> Iterator[Check]:
    if report.unreachable:
        todo = "open these ports between the nodes (node manager and object manager; ray start --help fixes them)"
        yield Check("ports", "block", f"cannot reach {', '.join(report.unreachable)}", todo, report.node)
    else:
        yield Check("ports", "ok", "reaches every node", node=report.node)
    if report.loopback_name and not cluster.loopback:
        todo = "name the real address in /etc/hosts, or GLOO_SOCKET_IFNAME=eth0: else training on several hosts fails"
        yield Check("host name", "warn", f"{report.host} is {report.loopback_name}", todo, report.node)


PER_NODE: tuple[Callable[[Cluster, NodeReport], Iterator[Check]], ...] = (
    _versions, _store, _network, _clock, _disk, _shared_memory, _gpu,
)  # fmt: skip

"""Whether the exported student fits a small device: run under its limits on this machine, and said to be emulated.

A phone or a board is stood in for by a process with as many cores and as much memory; its own processor is slower, so
times are an optimistic hint. A microcontroller runs no process: its graph is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import RecipeError
from cluster.recipe.measures import EdgeProfile
from jobs.measure import alone
from jobs.packing import mobile

MB = 1_000_000
PROFILES: Mapping[str, EdgeProfile] = {
    "jetson-nano": EdgeProfile(cpus=4, memory_bytes=2_000 * MB, file_bytes=1_000 * MB),  # 4 GB shared with its GPU
    "rpi4": EdgeProfile(cpus=4, memory_bytes=500 * MB, file_bytes=500 * MB),  # of the smallest model's 1 GB
    "phone-low": EdgeProfile(cpus=2, memory_bytes=100 * MB, file_bytes=20 * MB, mobile=True),  # 100 MB: an app's part
    "phone-high": EdgeProfile(cpus=4, memory_bytes=100 * MB, file_bytes=100 * MB, mobile=True),
    "mcu": EdgeProfile(cpus=1, memory_bytes=512 * 1024, file_bytes=2048 * 1024, process=False),  # Cortex-M7 class
}


def profiles(names: Sequence[str], own: Mapping[str, EdgeProfile]) -> dict[str, EdgeProfile]:
    """The named devices, own ones first. Raises RecipeError for a name that nobody knows."""
    known = {**PROFILES, **own}
    if unknown := [name for name in names if name not in known]:
        raise RecipeError("evaluate.edge: unknown device", got=", ".join(unknown), expected=", ".join(known))
    return {name: known[name] for name in names}


def measure(
    devices: Mapping[str, EdgeProfile],
    bundle: Path,
    items: Sequence[Mapping[str, Any]],
    file_bytes: int,
    active: int | None,
) -> list[dict[str, Any]]:
    """Per device what it allows, what the bundle takes, and whether it `fits`, with every reason `why` not.

    `file_bytes` is the engine's size, `active` its peak activation memory (bytes; None: it could not be counted). On a
    phone the bundle's graphs are run in ONNX Runtime's own format, and their size counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        phone = Path(folder) / "phone"
        ported = any(device.mobile for device in devices.values()) and mobile.ported(bundle, phone)
        found = []
        for name, device in devices.items():
            own = Tried(phone, mobile.size(phone), True) if device.mobile and ported else Tried(bundle, file_bytes)
            found.append(_tried(name, device, own, items, active))
    return found


@dataclass(frozen=True)
class Tried:
    """The bundle that a device runs, the size of its graphs (bytes), and whether they are in the mobile format."""

    bundle: Path
    file_bytes: int
    mobile: bool = False


def _tried(
    name: str, device: EdgeProfile, own: Tried, items: Sequence[Mapping[str, Any]], active: int | None
) -> dict[str, Any]:
    bundle, file_bytes = own.bundle, own.file_bytes
    told, why = {}, []
    if file_bytes > device.file_bytes:
        why.append(f"the engine file takes {_mb(file_bytes)}, there is room for {_mb(device.file_bytes)}")
    if device.process:
        try:
            told = alone.answer(bundle, bundle, items, device.cpus, device.memory_bytes)
        except alone.Ended as error:
            why.append(f"ended under a limit of {_mb(device.memory_bytes)} ({error})")
    if not device.process and active is None:
        why.append("activations of this engine cannot be counted")
    needs = told["rss_peak_bytes"] if told else None if device.process else active
    if needs is not None and needs > device.memory_bytes:
        what = "the process" if told else "activations"
        why.append(f"{what} took {_mb(needs)}, {_mb(device.memory_bytes)} may be used")
    return {
        "profile": name, "emulated": True, "how": "process" if device.process else "counted",
        "threads": told.get("threads"), "cpus": device.cpus, "cpus_used": told.get("cpus"),
        "memory_limit_bytes": device.memory_bytes,
        "mobile_format": own.mobile,
        "file_limit_bytes": device.file_bytes, "file_bytes": file_bytes, "activation_peak_bytes": active,
        "rss_peak_bytes": told.get("rss_peak_bytes"),
        "model_memory_bytes": told["rss_peak_bytes"] - told["rss_runtime_bytes"] if told else None,
        "latency_ms": told.get("latency_ms"), "fits": not why, "why": why,
    }  # fmt: skip


def _mb(count: int) -> str:
    return f"{count / MB:,.2f} MB"

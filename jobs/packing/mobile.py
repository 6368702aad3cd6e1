"""A copy of a bundle as a phone would carry it: its graphs in ONNX Runtime's own format, under the names they had.

ONNX Runtime tells the two formats apart by their first bytes, so the bundle's own code opens either.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.canonical import file_digest
from jobs.packing import writing
from serving.bundle import files


def ported(bundle: Path, target: Path) -> bool:
    """Write `bundle` as the new folder `target`, its graphs replaced; False where it has no such form: another engine's
    bundle, or a sealed one, whose seal a copy would break."""
    spec = files.described((bundle / files.DESCRIPTION).read_bytes())
    sealed = (bundle / files.SIGNATURE).exists() or any(entry["encrypted"] for entry in spec["files"].values())
    if sealed or spec["engine"]["name"] != "onnxruntime":
        return False
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns(*files.NESTED, files.COMPILED))
    if not (target / writing.MOBILE).is_dir():
        writing.add_mobile(target)
    for graph in target.glob("*.onnx"):
        shutil.copyfile(target / writing.MOBILE / f"{graph.stem}.ort", graph)
        spec["files"][graph.name] |= {"sha256": file_digest(graph), "bytes": graph.stat().st_size}
    shutil.rmtree(target / writing.MOBILE)
    spec["files"] = {name: entry for name, entry in spec["files"].items() if (target / name).is_file()}
    (target / files.DESCRIPTION).write_bytes(files.written(spec))
    return True


def size(target: Path) -> int:
    """Size of the graphs of a bundle that was `ported` (bytes)."""
    return sum(path.stat().st_size for path in target.glob("*.onnx"))

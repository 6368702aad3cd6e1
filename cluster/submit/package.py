"""The working directory as one zip: code and recipes, without data, environments, stores and history.

What is left out stands in `.rayignore` and `.gitignore`, which Ray itself reads too; a package over the limit is
refused with its biggest parts named, before anything is sent.
"""

from __future__ import annotations

import fnmatch
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError

IGNORE_FILES = (".gitignore", ".rayignore")
ALWAYS = (".git", ".venv", "__pycache__")
LIMIT_BYTES = 50_000_000  # the code is 1 MB; Ray keeps packages in the head's memory and refuses 512 MiB
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can say: the same content is then the same package, sent once
BIGGEST = 5


@dataclass(frozen=True)
class Package:
    """What is shipped: the zip, its files (relative path -> bytes) and their sum before packing (bytes)."""

    path: Path
    files: Mapping[str, int]
    total_bytes: int


def pack(root: Path, target: Path, limit_bytes: int = LIMIT_BYTES) -> Package:
    """Write the zip of what is shipped from `root`.

    Raises InputError when the files are over the limit together, or when there are none.
    """
    sizes = {name: (root / name).stat().st_size for name in sorted(shipped(root))}
    total = sum(sizes.values())
    if not sizes:
        raise InputError("there is nothing to ship", got=root, expected="the repository's root")
    if total > limit_bytes:
        raise InputError(
            "the working directory is too big to ship",
            got=f"{total / 1e6:.1f} MB: {_biggest(sizes)}",
            expected=f"at most {limit_bytes / 1e6:.1f} MB",
            hint="name what the job does not need in .rayignore (data belongs into the store or a shared folder)",
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sizes:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = ((root / name).stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / name).read_bytes())
    return Package(target, sizes, total)


def shipped(root: Path) -> Iterator[str]:
    """Yield the relative paths of the files that are shipped; links are left out, for they point out of the package."""
    patterns = [*ALWAYS, *(line for name in IGNORE_FILES for line in _lines(root / name))]
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        folders[:] = sorted(
            name for name in folders
            if not (Path(folder) / name).is_symlink() and not ignored((below / name).as_posix(), patterns)
        )  # fmt: skip
        for name in files:
            path = (below / name).as_posix()
            if not (root / path).is_symlink() and not ignored(path, patterns):
                yield path


def ignored(path: str, patterns: list[str]) -> bool:
    """Tell whether a line of an ignore file means this path.

    As in .gitignore: a line with a "/" in front or within is the path from the root, any other one a name at any
    depth. "!" (taking back) is not known and refused where the file is read.
    """
    name = path.rpartition("/")[2]
    for pattern in patterns:
        plain = pattern.removeprefix("**/").rstrip("/")
        anchored = "/" in plain
        if fnmatch.fnmatchcase(path if anchored else name, plain.lstrip("/")):
            return True
    return False


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    wanted = [line for line in lines if line and not line.startswith("#")]
    for line in wanted:
        if line.startswith("!"):
            raise InputError(f"{path.name} takes back what it leaves out", got=line, expected="no line with ! in front")
    return wanted


def _biggest(sizes: Mapping[str, int]) -> str:
    """The top folders that make it big, each with its biggest file."""
    folders: dict[str, int] = defaultdict(int)
    for name, size in sizes.items():
        folders[name.partition("/")[0]] += size
    parts = []
    for folder, size in sorted(folders.items(), key=lambda item: -item[1])[:BIGGEST]:
        inside = [name for name in sizes if name.partition("/")[0] == folder]
        biggest = max(inside, key=lambda name: sizes[name])
        more = f" (most of it {biggest}, {sizes[biggest] / 1e6:.1f} MB)" if biggest != folder else ""
        parts.append(f"{folder} {size / 1e6:.1f} MB{more}")
    return "; ".join(parts)

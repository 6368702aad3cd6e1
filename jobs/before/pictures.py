"""A folder of pictures as seed rows: a sub-folder's name is the label, pictures beside the sub-folders have none."""

from __future__ import annotations

import io
from pathlib import Path

from cluster.errors import DataError
from jobs.before.seeds import Found, Seed
from jobs.data.readers import DeadLetter

KEPT = {"PNG": "png", "JPEG": "jpeg"}  # as they are; every other format becomes PNG
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation",
               "valid": "validation", "test": "test", "testing": "test"}  # fmt: skip


def read(folder: Path) -> Found:
    """Seed rows of every picture below `folder`, by path; `file` is the path within it, `row` its place in the order.

    Sub-folders that are all named like splits (train, val, test) are the splits, and the labels are below them.
    Set aside: `unreadable_picture`, `no_picture` (another kind of file). Raises DataError when nothing is left.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    splits = _are_splits(folder)
    rows, dead = [], []
    for number, path in enumerate(files):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in ENDINGS:
            dead.append(DeadLetter(str(inside), number, "no_picture", f"ending {path.suffix or 'missing'}"))
            continue
        try:
            data, kind = load(path)
        except ValueError as error:
            dead.append(DeadLetter(str(inside), number, "unreadable_picture", str(error)))
            continue
        folders = [*inside.parts[:-1]]
        split = SPLIT_NAMES[folders.pop(0).lower()] if splits and folders else None
        label = folders[0] if folders else None
        rows.append(Seed(str(inside), number, image=data, image_format=kind, label=label, split=split))
    if not rows:
        raise DataError(f"{folder} holds no picture", got=f"{len(files)} files", expected=", ".join(ENDINGS))
    return Found(rows, dead)


def _are_splits(folder: Path) -> bool:
    names = [path.name.lower() for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return "train" in {SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES} and set(names) <= set(SPLIT_NAMES)


def load(path: Path) -> tuple[bytes, str]:
    """A picture's bytes as PNG or JPEG, and which. Raises ValueError when it cannot be decoded to the last row."""
    from PIL import Image

    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.format in KEPT:
                return data, KEPT[image.format]
            stream = io.BytesIO()
            image.convert("L" if image.mode in ("1", "L") else "RGB").save(stream, "PNG")
            return stream.getvalue(), "png"
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's own errors of a broken file
        raise ValueError(f"{type(error).__name__}: {error}") from None

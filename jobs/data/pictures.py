"""Labelled pictures from the user's own files, or scikit-learn's digits: decoded once, in the size that networks see.

A cell may hold an encoded picture (PNG, JPEG, BMP, WEBP), raw pixels with height, width and channels beside them, a
struct of bytes and path (as the `datasets` library writes them), or the path of a file, relative to the table.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cluster.errors import DataError
from cluster.recipe import DataSection
from cluster.recipe.base import Section
from jobs.data import digits, readers, tabular
from jobs.data.cells import CellError
from serving.bundle.answer import BundleError
from serving.bundle.image_classes import Frame, framed, read

RAW = "raw-uint8-hwc"  # image_format of pixels as they are, uint8 [height, width, channels]
BESIDE = ("image_format", "height", "width", "channels")
LOOKED = 1000  # rows that size and channels are taken from where the recipe does not say them
SIZE_MAX = 64  # pixels a side, unless the recipe says more
PATH_MAX = 4096  # bytes of a cell that may be a path


class Pictures(Section):
    """How pictures are read (`data.params`)."""

    image_column: str = Field("image", description="column of the picture (source table)")
    size: int | None = Field(
        None,
        ge=8,
        le=512,
        description=f"pixels a side; null: the commonest longer side in training, at most {SIZE_MAX}",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1: grey, 3: RGB; null: 1 where every training picture looked at is grey"
    )


def rows(section: DataSection, params: Pictures, seed: int) -> tuple[tabular.Labelled, Frame]:
    """Classes, splits and rows set aside, inputs uint8 [S, S, C], and the frame (S, C); deterministic in `seed`.

    Raises DataError as `tabular.read`, or when no picture can be read.
    """
    if section.source == "digits":
        frame = Frame(params.size or digits.PIXELS, params.channels or 1)
        return _digits(frame), frame
    paths = tabular.files(section)
    frame = _frame(paths["train"], params)
    folder = paths["train"].parent

    def of(row: Mapping[str, Any]) -> np.ndarray:
        return pixels(row, params.image_column, frame, folder)

    inputs = tabular.Inputs({"params.image_column": params.image_column}, BESIDE, of)
    return tabular.read(section, seed, inputs), frame


def pixels(row: Mapping[str, Any], column: str, frame: Frame, folder: Path) -> np.ndarray:
    """A row's picture, uint8 [S, S, C]; paths are relative to `folder`. Raises CellError for a row to be set aside."""
    from PIL import Image

    if _is_raw(row):
        plain = _raw(row, column)
        return framed(Image.fromarray(plain[..., 0] if plain.shape[2] == 1 else plain), frame)
    try:
        return read(encoded(row[column], folder), frame)
    except BundleError as error:
        raise CellError("unreadable_picture", str(error)) from None


def decoded(row: Mapping[str, Any], column: str, folder: Path) -> np.ndarray:
    """A row's picture in its own size, uint8 [H, W, 3]; paths are relative to `folder`. Raises CellError."""
    from PIL import Image

    if _is_raw(row):
        plain = _raw(row, column)
        return plain if plain.shape[2] == 3 else np.repeat(plain, 3, 2)
    data = encoded(row[column], folder)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise CellError("unreadable_picture", str(error)) from None


def _is_raw(row: Mapping[str, Any]) -> bool:
    return "image_format" in row and row["image_format"] in (RAW, RAW.encode())


def _raw(row: Mapping[str, Any], column: str) -> np.ndarray:
    shape: tuple[Any, ...] = tuple(row.get(name) for name in BESIDE[1:])
    data = row[column]
    if not isinstance(data, bytes) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise CellError("unreadable_picture", f"raw pixels of shape {shape}, expected bytes and three whole numbers")
    if shape[2] not in (1, 3) or len(data) != np.prod(shape):
        raise CellError("unreadable_picture", f"{len(data)} bytes for raw pixels of shape {shape}, channels 1 or 3")
    return np.frombuffer(data, np.uint8).reshape(shape)


def encoded(cell: Any, folder: Path) -> bytes:
    """The bytes of a file, from whatever the cell holds; paths are relative to `folder`. Raises CellError."""
    if isinstance(cell, Mapping):
        inside = [cell[name] for name in ("bytes", "path") if name in cell and cell[name] is not None]
        cell = inside[0] if inside else None
    if cell is None or cell in (b"", ""):
        raise CellError("null_picture", "the picture is null or empty")
    if isinstance(cell, str) or (isinstance(cell, bytes) and len(cell) <= PATH_MAX):
        named = _file(cell, folder)
        if named is not None:
            return named.read_bytes()
    if not isinstance(cell, bytes):
        kind = type(cell).__name__
        raise CellError("no_picture", f"got {kind} {cell!r:.80}, expected bytes or the path of a file")
    return cell


def _file(cell: str | bytes, folder: Path) -> Path | None:
    """The file that a cell names, None where it names none (an encoded picture is no path)."""
    try:
        path = folder / Path(cell if isinstance(cell, str) else cell.decode()).expanduser()
        return path if path.is_file() else None
    except (UnicodeDecodeError, ValueError, OSError, RuntimeError):  # not text, a null in it, too long, no such user
        return None


def _frame(path: Path, params: Pictures) -> Frame:
    """Size and channels that the recipe says, or that the first rows of the training file have: headers are read only.

    Raises DataError when none of them is a picture.
    """
    if params.size is not None and params.channels is not None:
        return Frame(params.size, params.channels)
    raw = readers.read(path, {"params.image_column": params.image_column}, BESIDE)
    sides: Counter[int] = Counter()
    grey = True
    for place in range(min(LOOKED, len(raw.numbers))):
        row = {name: column[place] for name, column in raw.columns.items()}
        try:
            side, colours = _header(row, params.image_column, path.parent)
        except CellError:
            continue  # set aside, with its reason, when the row itself is read
        sides[side] += 1
        grey = grey and colours == 1
    if not sides:
        got = f"{min(LOOKED, len(raw.numbers))} rows without one"
        raise DataError(f"{path.name}: {params.image_column} holds no picture", got=got, expected="PNG or JPEG bytes")
    common = max(sides, key=lambda side: (sides[side], -side))
    size = params.size or max(8, min(common, SIZE_MAX))
    return Frame(size, params.channels or (1 if grey else 3))


def _header(row: Mapping[str, Any], column: str, folder: Path) -> tuple[int, int]:
    """Longer side (pixels) and colours (1 or 3) of a row's picture, without decoding it. Raises CellError."""
    from PIL import Image

    if _is_raw(row):
        height, width, channels = _raw(row, column).shape
        return max(height, width), channels
    try:
        with Image.open(io.BytesIO(encoded(row[column], folder))) as image:
            return max(image.size), 1 if image.mode in ("1", "L", "LA", "I;16", "I", "F") else 3
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CellError("unreadable_picture", str(error)) from None


def _digits(frame: Frame) -> tabular.Labelled:
    """scikit-learn's 1,797 scans under the fixed split of `jobs.data.digits`."""
    from PIL import Image

    source = digits.pictures()
    seen = [framed(Image.fromarray(one), frame) for one in source.pixels]
    splits = {
        name: tabular.Rows([seen[number] for number in own], source.digits[own], own)
        for name, own in source.splits.items()
        if name in digits.SPLITS
    }
    return tabular.Labelled(digits.WORDS, splits, tabular.Rows([], np.zeros(0, np.int64), np.zeros(0, np.int64)), ())

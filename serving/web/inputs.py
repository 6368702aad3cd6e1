"""Looks at a request before any model does: counts, kinds, and the size of pictures by their header alone."""

from __future__ import annotations

import io
import re
import struct
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from serving.bundle.answer import BundleError
from serving.bundle.image_classes import FORMATS
from serving.web import api
from serving.web.asked import Desk
from serving.web.auth import Caller, Role

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}\Z")
BEARER = "bearer "
KEY_HEADER = "x-api-key"


def request_id(request: Request) -> str:
    """The caller's own id when it is printable and short, else a new one; the same for the whole request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get(api.REQUEST_ID_HEADER, "")
        request.state.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    return str(request.state.request_id)


def who(request: Request, desk: Desk, needs: Role = "client") -> Caller:
    """Who asks. Raises Refusal for a key that is missing, unknown or of another role."""
    header = request.headers.get("authorization", "")
    key = header[len(BEARER) :] if header.lower().startswith(BEARER) else request.headers.get(KEY_HEADER)
    return desk.keys.caller(key or None, needs)


def let_in(request: Request, desk: Desk, needs: Role = "client") -> Caller:
    """Who asks, counted against the key's rate. Raises Refusal as `who`, and for a key over its rate."""
    caller = who(request, desk, needs)
    desk.limit.take(caller)
    return caller


def delay_ms(request: Request, desk: Desk) -> float:
    """The fault to inject, 0 unless this deployment allows it. Raises BundleError for what is no delay."""
    value = request.headers.get(api.DELAY_HEADER) if desk.allow_fault_injection else None
    if value is None:
        return 0.0
    if not re.fullmatch(r"[0-9]{1,5}", value) or float(value) > api.DELAY_MS_MAX:
        limit = f"whole milliseconds up to {api.DELAY_MS_MAX:.0f}"
        raise BundleError(f"{api.DELAY_HEADER}: got {value!r:.80}, expected {limit}")
    return float(value)


def look(item: Mapping[str, Any], desk: Desk) -> None:
    """Raise BundleError for what this student cannot read, or a picture that would unfold to too many pixels."""
    reads, images, frames = desk.reads, item.get("images", []), item.get("frames", [])
    if len(images) > reads.images_max:
        raise BundleError(f"images: got {len(images)}, expected at most {reads.images_max}")
    if item.get("audio") is not None and not reads.hears:
        raise BundleError("audio: got a sound, expected none")
    if len(frames) > reads.frames_max:
        raise BundleError(f"video: got {len(frames)} frames, expected at most {reads.frames_max}")
    for data in [*images, *frames]:
        check_size(data, desk.megapixels_max)


def check_size(data: bytes, megapixels_max: float) -> None:
    """Raise BundleError for a picture of more pixels; its header is read, nothing is unfolded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BundleError(f"image: too many pixels ({error})") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise BundleError("image: not a readable PNG, JPEG, BMP or WEBP picture") from error
    if pixels > megapixels_max * 1e6:
        raise BundleError(f"image: got {pixels / 1e6:.1f} megapixels, expected at most {megapixels_max:g}")

"""Bodies that work as they are, made for the model that is served: they stand in /openapi.json."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from serving.bundle import image_classes

QUESTIONS = {
    "visual_qa": "what digit is this ?",
    "text_classification": "I have lost my card",
    "retrieval": "how do I get my money back",
    "text_generation": "Once upon a time",
}


def predict_body(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A body of `/v1/predict` for the student of this `bundle.json`."""
    if spec["task"] == "image_classification":
        blank = image_classes.blank(image_classes.Frame(**spec["picture"]))
        return {"images": [base64.b64encode(blank).decode()]}
    body: dict[str, Any] = {"text": QUESTIONS[spec["task"]]}
    if spec["task"] == "visual_qa" and spec["max_images"]:
        body["images"] = [base64.b64encode(picture(spec["picture"]["size"])).decode()]
    return body


def chat_body(model: str, text: str) -> dict[str, Any]:
    """A body of `/v1/chat/completions`."""
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def picture(size: int) -> bytes:
    """A bright square on black, `size` pixels a side, as PNG bytes."""
    from PIL import Image

    stream = io.BytesIO()
    image = Image.new("L", (size, size))
    image.paste(255, (size // 4, size // 4, size - size // 4, size - size // 4))
    image.save(stream, "PNG")
    return stream.getvalue()

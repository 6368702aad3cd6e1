"""A bundle as a BentoML service with its adaptive batching, for `bare_server.py bentoml`."""

import base64
import os
from typing import Any

import bentoml  # type: ignore[import-not-found]
from pydantic import BaseModel

from serving.bundle import predict


class Row(BaseModel):
    """One request."""

    text: str
    images: list[str] = []


@bentoml.service(
    workers=1, threads=1, traffic={"timeout": 60, "max_concurrency": 512}, logging={"access": {"enabled": False}}
)  # fmt: skip
class Service:
    """One worker, one compute thread."""

    def __init__(self) -> None:
        self.model = predict.load(os.environ["BARE_SERVER_BUNDLE"])

    @bentoml.api(batchable=True, route="/v1/predict", max_batch_size=16, max_latency_ms=60_000)
    def predict(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Answers in the order of the rows."""
        images = [[base64.b64decode(image) for image in row.images] for row in rows]
        items = [{"text": row.text, "images": one} for row, one in zip(rows, images, strict=True)]
        return [{"text": one.text, "confidence": one.confidence} for one in self.model.predict(items)]

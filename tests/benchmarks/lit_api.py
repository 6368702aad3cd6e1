"""A bundle as a LitServe API with its batching, for `bare_server.py litserve`."""

import base64
import os
from typing import Any

import litserve  # type: ignore[import-not-found]

from serving.bundle import predict


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One worker, one compute thread."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model = predict.load(os.environ["BARE_SERVER_BUNDLE"])

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """A row as the model takes it."""
        return {"text": request["text"], "images": [base64.b64decode(image) for image in request.get("images", [])]}

    def predict(self, items: Any) -> Any:
        """Answers in the order of the rows."""
        return self.model.predict(items) if isinstance(items, list) else self.model.predict([items])[0]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Rows go together as they are."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """And come apart as they are."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """What is answered."""
        return {"text": output.text, "confidence": output.confidence}

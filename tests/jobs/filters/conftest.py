"""Samples in a line: prompts with whatever else a filter reads."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import schema
from jobs.data.filters import Rows

FILLED: dict[str, Any] = {
    "split": "train", "slice": "all", "prompt": "", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0, "seed_row": 0,
    "response": "yes", "confidence": 0.9, "entropy": 0.1, "status": "ok", "teacher": "here", "attempts": 1,
}  # fmt: skip


@pytest.fixture
def make_rows() -> Callable[..., Rows]:
    """Rows of these prompts; further columns as lists by name, embeddings as `unit`, requests as `evaluation`."""

    def make(prompts: Sequence[str], unit: np.ndarray | None = None, **columns: Any) -> Rows:
        evaluation = columns.pop("evaluation", {})
        probabilities, seed = columns.pop("probabilities", None), columns.pop("seed", 0)
        values = {name: [value] * len(prompts) for name, value in FILLED.items()} | {"prompt": list(prompts)} | columns
        values = {"sample_id": [f"{place:016x}" for place in range(len(prompts))]} | values
        fields = schema.schema("samples")
        given = pa.table({name: pa.array(own, fields.field(name).type) for name, own in values.items()})
        unit = np.eye(max(1, len(prompts)), dtype=np.float32)[: len(prompts)] if unit is None else unit
        asked = {split: make(texts).samples for split, texts in evaluation.items()}
        return Rows(schema.conform(given, "samples"), unit, probabilities, asked, seed)

    return make


class Judge(BaseHTTPRequestHandler):
    """Keeps what asks for a card, refuses what lost a phone, has no opinion of "how are you", breaks when told to."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][-1]["content"]
        said = "No." if "phone" in asked else "Well" if "how are you" in asked else "Yes, it is."
        first = {"token": said, "logprob": -0.1, "top_logprobs": []}
        answer = {"message": {"content": said}, "finish_reason": "stop", "logprobs": {"content": [first]}}
        out = json.dumps({"choices": [answer], "usage": {"prompt_tokens": 30, "completion_tokens": 3}}).encode()
        self.send_response(500 if "breaks" in asked else 200)
        self.send_header("content-length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *about: Any) -> None:
        pass


@pytest.fixture(scope="session")
def judge_params() -> Iterator[dict[str, Any]]:
    """Parameters of filter `judge` with a local endpoint as the judge."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    params = {"base_url": f"http://127.0.0.1:{http.server_port}/v1", "top_logprobs": 0}
    yield {"judge": {"architecture": "openai", "weights": "judge", "params": params, "asking": {"backoff_s": 0.01}}}
    http.shutdown()
    thread.join()
    http.server_close()

"""A retriever behind HAProxy and Ray Serve: a query gets the ids of the nearest entries, in order, as alone."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from cluster.canonical import file_digest
from cluster.recipe.serving import ServingSection
from jobs.data import vocabulary
from serving.bundle import files, predict
from serving.bundle.texts import encode_text
from serving.deployment import app
from serving.models import dual_encoder

pytestmark = pytest.mark.slow
ENTRIES = {"p1": "the cat sat on a mat", "p2": "a dog ran by the sea", "p3": "one bird", "p4": "the dog and the bird"}
WORDS = vocabulary.learned(list(ENTRIES.values()), 270)


@pytest.fixture
def retriever(tmp_path: Path) -> Path:
    """The bundle of a small dual encoder with random weights over ENTRIES."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    encoder = BertModel(BertConfig(vocab_size=WORDS.size, **shape), add_pooling_layer=False)
    spec = {
        "task": "retrieval", "labels": list(ENTRIES), "max_tokens": 32, "scale": 20.0, "threads": 1,
        "engine": {"name": "onnxruntime"}, "scheme": "float32", "batch_invariant": False,
    }  # fmt: skip
    rows = [np.asarray(encode_text({"text": text}, WORDS.tokenizer, spec)) for text in ENTRIES.values()]
    dual_encoder.export(dual_encoder.DualEncoder(encoder.eval(), 20.0), tmp_path, rows)
    WORDS.tokenizer.save(str(tmp_path / "tokenizer.json"))
    listed = {
        path.name: {"sha256": file_digest(path), "bytes": path.stat().st_size, "encrypted": False}
        for path in tmp_path.iterdir()
    }
    (tmp_path / "bundle.json").write_bytes(files.written({**spec, "files": listed}))
    return tmp_path


@pytest.fixture
def client(serve_ready: None, retriever: Path) -> Iterator[httpx.Client]:
    """Of the running service."""
    running = app.start(retriever, None, ServingSection(student_ms=5000.0, total_ms=8000.0))
    with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
        yield client
    running.stop()


def test_a_query_gets_ranked_ids_over_http_and_writes_no_chat(client: httpx.Client, retriever: Path) -> None:
    alone = predict.load(retriever)
    for query in ("a bird", "the cat sat on a mat", "sea"):
        answered = client.post("/v1/predict", json={"text": query}).json()
        (expected,) = alone.predict([{"text": query}])
        assert expected.probabilities is not None
        assert [(one["id"], one["score"]) for one in answered["ranking"]] == list(expected.probabilities.items())
        assert [one["score"] for one in answered["ranking"]] == sorted(expected.probabilities.values(), reverse=True)
        assert (answered["label"], answered["text"]) == (expected.text, expected.text)
    refused = client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "a"}]})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")

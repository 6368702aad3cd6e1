"""A language model behind the gateway's own code on a real port, asked by OpenAI's own client, unmodified."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.recipe import ResourcesSection
from cluster.recipe.serving import ServingSection
from serving.bundle import predict
from serving.deployment.loopback import free_port
from serving.deployment.served import GatewayPlan, Served, ServedArm
from serving.seams.observe import Quiet, Record

openai = pytest.importorskip("openai")
TEXTS = ["the cat sat", "a dog ran by the sea", "one bird", "the cat sat on a mat and the dog ran"]


NOTED: list[Record] = []


class Noting(Quiet):
    """Writes down what it is told."""

    def answered(self, record: Record) -> None:
        NOTED.append(record)


@pytest.fixture(scope="module")
def url(folder: Path, ray_cluster: ResourcesSection, serve_ready: None) -> Iterator[str]:
    """The gateway on a port of its own, without Ray Serve around it."""
    import uvicorn

    from serving.deployment.gateway import Gateway

    gateway = Gateway(GatewayPlan(section=ServingSection(student_ms=5000, total_ms=20000)).model_dump(mode="json"))
    gateway.observer = Noting()
    port = free_port("127.0.0.1")
    server = uvicorn.Server(
        uvicorn.Config(gateway.__serve_build_asgi_app__(), port=port, log_level="error", ws="none", lifespan="off")
    )

    async def run() -> None:
        served = Served(arms=[ServedArm(name="champion", model="writer", version="7", bundle=str(folder))])
        await gateway.reconfigure(served.model_dump(mode="json"))
        await server.serve()
        await gateway.__del__()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def alone(folder: Path) -> predict.Answerer:
    """The bundle by itself."""
    return predict.load(folder)


def test_openais_client_gets_the_bundles_own_answer(client: Any, alone: predict.Answerer) -> None:
    said = client.chat.completions.create(model="writer", messages=[{"role": "user", "content": TEXTS[0]}])
    (expected,) = alone.predict([{"text": TEXTS[0]}])
    assert said.choices[0].message.content == expected.text
    assert said.usage.completion_tokens > 0
    assert said.model == "writer"


def test_openais_client_streams_it_in_pieces(client: Any, alone: predict.Answerer) -> None:
    stream = client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": TEXTS[1]}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    (expected,) = alone.predict([{"text": TEXTS[1]}])
    assert "".join(pieces) == expected.text
    assert len(pieces) > 2
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    assert chunks[-1].usage.completion_tokens > 0


def test_a_streamed_text_is_noted_whole_and_what_was_asked_in_other_terms_is_compared_with_nothing(
    client: Any, alone: predict.Answerer
) -> None:
    asked = {"model": "writer", "messages": [{"role": "user", "content": TEXTS[2]}]}
    NOTED.clear()
    client.chat.completions.create(**asked)
    list(client.chat.completions.create(**asked, stream=True))
    client.chat.completions.create(**asked, max_tokens=2)
    (expected,) = alone.predict([{"text": TEXTS[2]}])
    whole, streamed, short = NOTED
    for record in (whole, streamed):
        assert record.student == record.answer == expected
        assert (record.route, record.outcome, record.comparable) == ("chat", "student", True)
    assert short.answer is not None and expected.text.startswith(short.answer.text)
    assert not short.comparable


def test_a_stream_whose_caller_leaves_is_noted_once_without_an_answer_to_compare(client: Any) -> None:
    NOTED.clear()
    stream = client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": TEXTS[3]}], stream=True
    )
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 10
    while not NOTED and time.monotonic() < until:
        time.sleep(0.02)
    (record,) = NOTED
    assert record.outcome == "student"


def test_openais_client_lists_models_and_reads_our_errors(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["writer"]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="writer", messages=[{"role": "user", "content": "a"}], n=3)
    assert refused.value.response.json()["code"] == "invalid_request"


def test_many_are_written_at_once_and_each_is_its_own(url: str, alone: predict.Answerer) -> None:
    async def ask(text: str) -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as made:
            said = await made.chat.completions.create(model="w", messages=[{"role": "user", "content": text}])
            return str(said.choices[0].message.content)

    async def go() -> list[str]:
        return await asyncio.gather(*(ask(text) for text in TEXTS * 3))

    assert asyncio.run(go()) == [answer.text for answer in alone.predict([{"text": text} for text in TEXTS * 3])]


def test_predict_writes_too_and_pictures_are_refused(url: str, alone: predict.Answerer) -> None:
    (expected,) = alone.predict([{"text": TEXTS[2]}])
    answered = httpx.post(f"{url}/v1/predict", json={"text": TEXTS[2]}).json()
    assert (answered["text"], answered["confidence"]) == (expected.text, expected.confidence)
    assert httpx.post(f"{url}/v1/predict", json={"text": "a", "images": ["YQ=="]}).status_code == 422


def test_every_example_of_the_document_works_on_a_language_model(url: str) -> None:
    for path, operations in httpx.get(f"{url}/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/admin"):
                continue
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            answered = httpx.request(method.upper(), url + path, json=body, timeout=30)
            assert answered.status_code < 300, (path, answered.text)

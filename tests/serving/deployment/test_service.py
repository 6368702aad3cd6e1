"""The running service over HTTP: the bundle's own bits, a fallback that is seen, and no port open to the network."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.errors import DataError, RaydistillError, RecipeError
from cluster.recipe.serving import ServingSection
from serving.bundle import predict
from serving.deployment import app
from serving.seams import problems
from serving.teachers import transformers
from serving.web import api

LISTENS = "0A"
SLOW = {api.DELAY_HEADER: "1300"}


def ask(service: httpx.Client, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    answered = service.post("/v1/predict", json=body, headers=headers)
    if headers:
        time.sleep(0.5)  # the slow student's thread is busy for a while yet, and the next test wants it free
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def test_a_served_answer_has_the_bits_of_predict_py(service: httpx.Client, questions: list[Any], bundle: Path) -> None:
    alone = predict.load(bundle)
    for question in questions:
        answered = ask(service, question.body)
        (here,) = alone.predict([question.item])
        assert (answered["text"], answered["confidence"]) == (here.text, here.confidence)
        assert (answered["fell_back"], answered["reason"]) == (False, None)


def test_a_slow_student_falls_back_to_the_teacher(service: httpx.Client, questions: list[Any], teacher: Path) -> None:
    answered = ask(service, questions[0].body, SLOW)
    (taught,) = transformers.load(teacher).answer([questions[0].item])
    assert (answered["fell_back"], answered["reason"], answered["model"]) == (True, "timeout", "teacher")
    assert answered["text"] == taught.text
    assert answered["confidence"] == pytest.approx(taught.confidence, rel=1e-4)


@pytest.mark.parametrize("headers", [{}, SLOW], ids=["student", "teacher"])
def test_a_question_without_a_picture_is_answered(service: httpx.Client, headers: dict[str, str]) -> None:
    assert ask(service, {"text": "is it even ?"}, headers)["fell_back"] == bool(headers)


def test_what_nobody_can_read_is_refused_even_when_the_teacher_reads_it_first(service: httpx.Client) -> None:
    body = {"text": "is it even ?", "images": ["bm8gcGljdHVyZQ=="]}
    for headers in ({}, SLOW):
        refused = service.post("/v1/predict", json=body, headers=headers)
        time.sleep(0.5)
        assert (refused.status_code, refused.json()["code"]) == (422, "unreadable_input")


def test_health_readiness_models_and_openapi_answer(service: httpx.Client) -> None:
    assert service.get("/healthz").json() == {"status": "ok"}
    assert service.get("/readyz").json() == {"status": "ready"}
    student, teacher = service.get("/v1/models").json()["data"]
    assert (student["arm"], student["scheme"], student["batch_invariant"]) == ("champion", "exact", True)
    assert teacher["id"] == "teacher"
    assert "/v1/predict" in service.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/predict", 405)])
def test_a_wrong_address_gets_a_problem_document(service: httpx.Client, method: str, path: str, status: int) -> None:
    refused = service.request(method, path)
    assert (refused.status_code, refused.json()["status"]) == (status, status)
    assert refused.headers["content-type"] == problems.PROBLEM_TYPE


def test_haproxy_is_in_front_and_nothing_listens_beyond_loopback(service: httpx.Client) -> None:
    ports = {port: (name, loopback) for name, port, loopback in listening()}
    assert ports[service.base_url.port][0] == "haproxy"
    assert [entry for entry in ports.items() if not entry[1][1]] == []


def listening() -> Iterator[tuple[str, int, bool]]:
    """Yield process name, TCP port and whether it is on loopback, of every listening socket below this process."""
    owners = {}
    for pid in descendants(os.getpid()):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            owners |= {os.readlink(link): name for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue  # it ended meanwhile
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            address, port = fields[1].split(":")
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] == LISTENS and owner is not None:
                # Bytes are in host order: 127.0.0.1 ends in 7F, as a mapped IPv6 address too; ::1 ends in 01000000.
                yield owner, int(port, 16), address.endswith("7F") or (table == "tcp6" and address.endswith("01000000"))


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for below in child.read_text().split():
            yield from descendants(int(below))


def test_a_folder_that_is_no_bundle_is_refused(serve_ready: None, tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(DataError, match=r"bundle\.json"):
        app.start(tmp_path, teacher, ServingSection())


def test_an_address_beyond_loopback_is_refused(serve_ready: None, bundle: Path, teacher: Path) -> None:
    with pytest.raises(RecipeError, match=r"serving\.host"):
        app.start(bundle, teacher, ServingSection(host="0.0.0.0"))


def test_serving_never_starts_a_ray_of_its_own(
    serve_ready: None, bundle: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RaydistillError, match="not connected"):
        app.start(bundle, teacher, ServingSection())


def test_every_example_of_the_document_works_sent_back_unchanged(admin: httpx.Client) -> None:
    for path, operations in admin.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            answered = admin.request(method.upper(), path, json=body)
            absent = path in ("/v1/admin/kill", "/v1/admin/promote", "/v1/admin/rollback")  # there is no challenger
            assert answered.status_code < 300 or (absent and answered.status_code == 409), (path, answered.text)

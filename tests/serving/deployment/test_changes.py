"""What is served is changed while it is served: shares, kill switch, promotion, rollback, and refused bundles."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store
from serving.bundle import files
from serving.deployment import changes
from serving.deployment.promoted import Catalog
from serving.seams import controlling
from serving.seams.problems import Refusal


@contextmanager
def under_load(url: str, body: dict[str, Any], clients: int = 3) -> Iterator[Counter[tuple[int, str]]]:
    """Ask without pause meanwhile; counts (status, version) of every answer, -1 for none."""
    seen: Counter[tuple[int, str]] = Counter()
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not over.is_set():
                try:
                    answered = client.post("/v1/predict", json=body)
                    found = answered.status_code, str(answered.json().get("version"))
                except httpx.HTTPError as error:
                    found = -1, repr(error)
                seen[found] += 1
                time.sleep(0.02)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
        time.sleep(0.5)
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module", autouse=True)
def only_the_champion(champion: Registry) -> None:
    """Other files of the session promote and roll back too."""
    for alias in ("challenger", "challenger-b", "previous"):
        now = champion.alias("visual", alias)
        champion.set_alias("visual", alias, None, expect=None if now is None else now.version)


def failed(seen: Counter[tuple[int, str]]) -> dict[tuple[int, str], int]:
    return {key: count for key, count in seen.items() if key[0] != 200}


def test_admin_routes_need_the_operators_key(service: httpx.Client) -> None:
    for path in ("split", "kill", "promote", "rollback"):
        refused = service.post(f"/v1/admin/{path}", json={})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert service.get("/v1/admin/state").status_code == 401


def test_what_cannot_be_done_says_why_and_changes_nothing(admin: httpx.Client) -> None:
    before = admin.get("/v1/admin/state").json()
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("kill", {"arm": "nobody"}, "conflict"),
        ("split", {"shares": {"challenger": 1.5}}, "invalid_request"),
        ("split", {"shares": {"nobody": 0.1}}, "conflict"),
        ("split", {"shares": {"challenger": 0.1}}, "conflict"),  # there is none
        ("promote", {}, "conflict"),
        ("rollback", {}, "conflict"),
    ]
    for path, body, code in wrong:
        assert admin.post(f"/v1/admin/{path}", json=body).json()["code"] == code, (path, body)
    assert admin.get("/v1/admin/state").json() == before


def test_the_documents_examples_of_admin_routes_work_also_without_a_challenger(admin: httpx.Client) -> None:
    before = admin.get("/v1/admin/state").json()
    paths = admin.get("/openapi.json").json()["paths"]
    for path in ("/v1/admin/split", "/v1/admin/kill"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert admin.post(path, json=example).status_code == 200, (path, example)
    after = admin.get("/v1/admin/state").json()
    assert after["arms"] == before["arms"]


def test_split_kill_promote_and_rollback_fail_no_request(
    admin: httpx.Client, running: Any, questions: list[Any], challenge: Callable[..., int], champion: Registry,
    exported: tuple[Recipe, Store, Artifact],
) -> None:  # fmt: skip
    version = str(challenge("c" * 16))
    with under_load(running.url, questions[0].body) as seen:
        state = admin.post("/v1/admin/split", json={"shares": {"challenger": 0.5}}).json()
        assert [(arm["name"], arm["weight"]) for arm in state["arms"]] == [("champion", 0.5), ("challenger", 0.5)]
        models = admin.get("/v1/models").json()["data"]
        assert [(model["arm"], model.get("weight")) for model in models[:2]] == [("champion", 0.5), ("challenger", 0.5)]
        began = time.perf_counter()
        state = admin.post("/v1/admin/kill", json={"arm": "challenger"}).json()
        assert [arm["weight"] for arm in state["arms"]] == [1.0, 0.0]
        kill_s = time.perf_counter() - began
        state = admin.post("/v1/admin/promote").json()
        assert [(arm["name"], arm["version"]) for arm in state["arms"]] == [("champion", version)]
        named = champion.alias("visual", "champion"), champion.alias("visual", "challenger")
        assert (named[0].version if named[0] else None, named[1]) == (int(version), None)
        time.sleep(0.3)
        state = admin.post("/v1/admin/rollback").json()
        assert [arm["version"] for arm in state["arms"]] == ["1"]
    assert failed(seen) == {}
    assert seen[(200, version)] > 0
    assert kill_s < 10  # returns when it is persisted; the effect is there before
    log = exported[1].workspace / "serving" / "decisions.jsonl"
    why = [json.loads(line)["why"] for line in log.read_text().splitlines()]
    assert why[-4:] == ["split", "kill", "challenger", "previous"]
    assert changes.remembered(log, "visual") == {}


def arms_of(state: dict[str, Any]) -> dict[str, tuple[str, float]]:
    return {arm["name"]: (arm["version"], arm["weight"]) for arm in state["arms"]}


def test_a_challenger_registered_since_takes_the_place_of_the_one_that_is_served(
    admin: httpx.Client, challenge: Callable[..., int]
) -> None:
    def split(share: float) -> dict[str, tuple[str, float]]:
        return arms_of(admin.post("/v1/admin/split", json={"shares": {"challenger": share}}).json())

    first = str(challenge("a" * 15 + "1"))
    assert split(0.2) == {"champion": ("1", 0.8), "challenger": (first, 0.2)}
    second = str(challenge("a" * 15 + "2"))
    assert split(0.0) == {"champion": ("1", 1.0), "challenger": (first, 0.0)}
    assert split(0.3) == {"champion": ("1", 0.7), "challenger": (second, 0.3)}
    admin.post("/v1/admin/promote").raise_for_status()
    assert arms_of(admin.post("/v1/admin/rollback").json()) == {"champion": ("1", 1.0)}


def test_of_several_challengers_the_named_one_is_crowned_the_others_stay_and_a_rollback_ends_all(
    admin: httpx.Client, challenge: Callable[..., int]
) -> None:
    first, second = str(challenge("6" * 16)), str(challenge("7" * 16, alias="challenger-b"))
    shares = {"challenger": 0.2, "challenger-b": 0.3}
    state = admin.post("/v1/admin/split", json={"shares": shares}).json()
    assert arms_of(state) == {"champion": ("1", 0.5), "challenger": (first, 0.2), "challenger-b": (second, 0.3)}
    for name in ("champion", "previous", "teacher", "nobody"):
        refused = admin.post("/v1/admin/promote", json={"arm": name})
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict"), name
    crowned = admin.post("/v1/admin/promote", json={"arm": "challenger-b"}).json()
    assert arms_of(crowned) == {"champion": (second, 1.0), "challenger": (first, 0.0)}
    assert arms_of(admin.post("/v1/admin/rollback").json()) == {"champion": ("1", 1.0)}
    with pytest.raises(Refusal, match="not served any more"):  # a monitor's order that comes late starts nothing
        asyncio.run(controlling.call("split", shares={"challenger": 0.1}, start=False))
    assert arms_of(admin.get("/v1/admin/state").json()) == {"champion": ("1", 1.0)}


def test_a_crowning_that_is_undone_leaves_the_aliases_as_they_were(
    champion: Registry, challenge: Callable[..., int], exported: tuple[Recipe, Store, Artifact]
) -> None:
    older, version = challenge("4" * 16, alias="previous"), challenge("5" * 16, alias="challenger-b")
    before = champion.aliases("visual")
    catalog = Catalog(str(exported[1].root), "visual")
    was = catalog.crown("challenger-b", str(version), "1")
    assert champion.aliases("visual")["champion"] == version
    catalog.uncrown("challenger-b", str(version), was)
    named = champion.aliases("visual")
    assert (named["champion"], named["challenger-b"], named["previous"]) == (1, version, older)
    assert named == before


def corrupt(folder: Path) -> None:
    graph = folder / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")


def other_task(folder: Path) -> None:
    spec = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_bytes(files.written({**spec, "labels": ["something", "else"]}))


@pytest.mark.parametrize(("aid", "change", "why"), [("d" * 16, corrupt, "sha256"), ("e" * 16, other_task, "labels")])
def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(
    admin: httpx.Client, running: Any, questions: list[Any], challenge: Callable[..., int], champion: Registry,
    aid: str, change: Callable[[Path], None], why: str,
) -> None:  # fmt: skip
    challenge(aid, change)
    with under_load(running.url, questions[0].body, clients=1) as seen:
        for path, body in (("promote", {}), ("split", {"shares": {"challenger": 0.1}})):
            refused = admin.post(f"/v1/admin/{path}", json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "refused_bundle")
            assert why in refused.json()["detail"]
    assert failed(seen) == {}
    assert {version for _, version in seen} == {"1"}
    now = champion.alias("visual", "champion")
    assert now is not None and now.version == 1

"""The control's changes where something fails: Serve, the gateways and the bundles are stood in for, the registry is
real."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RaydistillError
from cluster.recipe.serving import ServingSection
from cluster.registry import Registry
from serving.deployment import changes, control, deploying, standing
from serving.deployment.control import Control
from serving.deployment.document import GATEWAY, Service, app_of, document
from serving.deployment.promoted import Catalog
from serving.deployment.served import GatewayPlan, Served, ServedArm
from serving.deployment.standing import Standing
from serving.seams.problems import Refusal

VERSIONS = ("1", "2", "3", "4")  # champion, challenger, previous, and one that has no alias yet


class Cluster(Control):
    """Two gateways and Serve's document; `refuses` names versions whose bundle gateways do not take, `broken` folders
    of bundles whose applications do not come up."""

    def __init__(self, registry: Registry, catalog: Catalog, mode: str) -> None:
        super().__init__()
        self.registry, self.refuses, self.broken, self.fitting = registry, set[str](), set[str](), lambda: None
        plan = GatewayPlan(section=ServingSection(mode=mode))
        service = Service(plan=plan, port=8000, catalog=asdict(catalog))
        served = Served(arms=[arm("champion", "1", 1.0, mode), arm("challenger", "2", 0.0, "split")], salt="s")
        self.applications = {one["name"]: one for one in document(service, served)["applications"]}
        self.gateways = [{"served": served.model_dump(mode="json"), "refused": None} for _ in range(2)]
        self.told: list[str] = []

    async def standing(self) -> Standing:
        self.told.append("standing")
        return Standing(self.applications)

    def deploy(self, described: dict[str, Any], ours: list[str]) -> None:
        self.applications = {one["name"]: one for one in described["applications"]}
        for name in ours:
            if name != GATEWAY and self.applications[name]["args"]["bundle"] in self.broken:
                raise RaydistillError(f"the service did not come up: {name}")

    async def _fit(self, now: Standing, arm: ServedArm) -> None:
        self.fitting()

    async def _told(self, method: str, *arguments: Any) -> list[Any]:
        self.told.append(method)
        for gateway in self.gateways:
            served = Served.parse(gateway["served"])
            if method == "kill":
                gateway["served"] = served.without(*arguments).model_dump(mode="json")
            elif method == "reconfigure" and (arguments[0]["sequence"] or math.inf) >= served.sequence:
                bad = self.refuses & {one["version"] for one in arguments[0]["arms"]}
                gateway["refused"] = f"not fit: {bad}" if bad else None
                gateway["served"] = gateway["served"] if bad else arguments[0]
        return self.gateways

    def arms(self) -> list[list[tuple[str, str, float]]]:
        """What the document says and what each gateway serves."""
        served = [Standing(self.applications).served, *(Served.parse(one["served"]) for one in self.gateways)]
        return [[(one.name, one.version, one.weight) for one in each.arms] for each in served]


def arm(name: str, version: str, weight: float, mode: str = "fused") -> ServedArm:
    app = app_of(f"/{version}") if mode == "split" else None
    return ServedArm(name=name, model="m", version=version, bundle=f"/{version}", weight=weight, app=app)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    """`cluster(mode)` serves version 1, with version 2 beside it; version 3 was champion before."""
    catalog = Catalog(str(tmp_path), "m")
    registry = Registry.beside(tmp_path)
    for version in VERSIONS:
        registry.register("m", f"/{version}", {"artifact_id": version})
    for alias, number in (("champion", 1), ("challenger", 2), ("previous", 3)):
        registry.set_alias("m", alias, number, expect=None)

    def named(catalog: Catalog, alias: str, name: str) -> ServedArm | None:
        found = registry.alias("m", alias)
        return None if found is None else arm(name, str(found.version), 0.0)

    def made(mode: str = "fused") -> Cluster:
        cluster = Cluster(registry, catalog, mode)
        monkeypatch.setattr(standing, "read", cluster.standing)
        monkeypatch.setattr(deploying, "deploy", cluster.deploy)
        return cluster

    monkeypatch.setattr(Catalog, "arm", named)
    monkeypatch.setattr(control, "TURN_S", 5.0)
    return made


def test_a_version_that_was_not_judged_is_not_crowned(cluster: Callable[..., Cluster]) -> None:
    here = cluster()
    here.registry.set_alias("m", "challenger", 4, expect=2)
    before = here.arms(), here.registry.aliases("m")
    with pytest.raises(Refusal, match="names version 4 by now, judged was 2"):
        asyncio.run(here.promote("challenger", "2"))
    assert (here.arms(), here.registry.aliases("m")) == before
    asyncio.run(here.promote("challenger", "4"))
    assert here.arms() == [[("champion", "4", 1.0)]] * 3


def test_what_was_tried_is_crowned_and_a_challenger_registered_meanwhile_stays_one(
    cluster: Callable[..., Cluster],
) -> None:
    here = cluster()
    here.fitting = lambda: here.registry.set_alias("m", "challenger", 4, expect=2)
    asyncio.run(here.promote())
    assert here.arms() == [[("champion", "2", 1.0)]] * 3
    assert here.registry.aliases("m") == {"champion": 2, "previous": 1, "challenger": 4}


@pytest.mark.parametrize(("action", "version"), [("promote", "2"), ("rollback", "3")])
def test_a_champion_that_gateways_refuse_leaves_aliases_and_arms_as_they_were(
    cluster: Callable[..., Cluster], action: str, version: str
) -> None:
    here = cluster()
    before = here.arms(), here.registry.aliases("m")
    here.refuses = {version}
    with pytest.raises(Refusal, match="not fit"):
        asyncio.run(getattr(here, action)())
    assert (here.arms(), here.registry.aliases("m")) == before


@pytest.mark.parametrize("broken", [{"/3"}, {"/1", "/2", "/3"}], ids=["the new one", "all"])
def test_an_application_that_does_not_come_up_leaves_aliases_arms_and_document_as_they_were(
    cluster: Callable[..., Cluster], broken: set[str]
) -> None:
    here = cluster("split")
    before = here.arms(), here.registry.aliases("m"), here.applications
    here.broken = broken
    with pytest.raises(Refusal, match="did not come up"):
        asyncio.run(here.rollback())
    assert (here.arms(), here.registry.aliases("m"), here.applications) == before
    here.broken = set()
    asyncio.run(here.rollback())
    assert here.arms() == [[("champion", "3", 1.0)]] * 3


def test_an_arm_is_out_before_serve_is_asked_what_is_served(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cluster()
    asyncio.run(here.split({"challenger": 0.4}))
    asked = here.standing

    async def gone() -> Standing:
        raise Refusal("conflict", "Serve does not answer")

    monkeypatch.setattr(standing, "read", gone)
    with pytest.raises(Refusal, match="does not answer"):
        asyncio.run(here.kill("challenger"))
    killed = [("champion", "1", 1.0), ("challenger", "2", 0.0)]
    assert here.arms()[1:] == [killed] * 2
    monkeypatch.setattr(standing, "read", asked)
    asyncio.run(here.kill("challenger"))
    assert here.arms() == [killed] * 3


@pytest.mark.parametrize("name", ["champion", "nobody"])
def test_killing_what_is_no_arm_beside_the_champion_is_refused_and_changes_nothing(
    cluster: Callable[..., Cluster], name: str
) -> None:
    here = cluster()
    before = here.arms()
    with pytest.raises(Refusal, match="expected an arm beside the champion"):
        asyncio.run(here.kill(name))
    assert here.arms() == before


def test_after_an_older_document_was_deployed_again_changes_go_on(cluster: Callable[..., Cluster]) -> None:
    here = cluster()
    ahead = {**here.gateways[0]["served"], "sequence": 7}
    here.gateways[0]["served"] = ahead
    asyncio.run(here.split({"challenger": 0.3}))
    assert here.arms() == [[("champion", "1", 0.7), ("challenger", "2", 0.3)]] * 3
    assert [one["served"]["sequence"] for one in here.gateways] == [8, 8]
    assert Standing(here.applications).served.sequence == 8


def test_shares_are_remembered_of_a_models_versions(cluster: Callable[..., Cluster]) -> None:
    here = cluster()
    log = Standing(here.applications).catalog.decisions  # type: ignore[union-attr]
    assert changes.remembered(log, "m") == {}
    asyncio.run(here.split({"challenger": 0.3}))
    with log.open("a") as stream:
        stream.write('{"shares": {"challenger": 0.9}, "versions": {"challenger": "2"}}\n')  # as it was written before
        stream.write('{"model": "other", "shares": {"challenger": 0.5}, "versions": {"challenger": "7"}}\n')
    assert changes.remembered(log, "m") == {"challenger": ("2", 0.3)}
    assert changes.remembered(log, "other") == {"challenger": ("7", 0.5)}

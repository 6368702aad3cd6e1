"""Changes what is served while it is served: shares, the kill switch, promotion and rollback.

One actor beside the gateways. It checks a bundle before anything moves, moves the alias (compare-and-set), tells every
replica, and then writes the declarative document, so that a replica that starts later serves the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import InputError, StoreError
from serving.bundle.answer import BundleError
from serving.deployment import deploying, promoted
from serving.deployment.document import GATEWAY, Service, app_of, document, limits_of
from serving.deployment.served import CHALLENGER, Served, ServedArm, spec_of
from serving.seams.controlling import NAME, NAMESPACE
from serving.seams.observe import CHAMPION
from serving.seams.problems import Refusal
from serving.students import swap

log = logging.getLogger(__name__)

TURN_S = 60.0  # for every replica to load a new champion
TELL_S = 5.0
TELL_AGAIN_S = 2.0
POLL_S = 0.05


class Control:
    """What is served, and how it changes; one change at a time."""

    def __init__(self, service: Mapping[str, Any], served: Mapping[str, Any], catalog: promoted.Catalog | None,
                 state: str | None) -> None:  # fmt: skip
        """`state` is the file that remembers shares and decisions for the next start."""
        self._service, self._served = Service.parse(service), Served.parse(served)
        self._catalog, self._state = catalog, None if state is None else Path(state)
        self._one = asyncio.Lock()

    async def state(self) -> dict[str, Any]:
        """What is served (`Served` as JSON), and what each gateway replica says (`Gateway.report`)."""
        return {**self._served.model_dump(mode="json"), "replicas": await self._told("report")}

    async def split(self, shares: Mapping[str, float]) -> dict[str, Any]:
        """Give arms these shares of all units, the champion the rest; an arm that is not there is started first.

        Raises Refusal for shares that are none, an arm that nobody registered, or a bundle that is not fit.
        """
        async with self._one:
            others = {name: share for name, share in shares.items() if name != CHAMPION}
            rest = 1 - sum(others.values())
            if any(not 0 <= share <= 1 for share in shares.values()) or rest < -1e-9:
                raise Refusal("invalid_request", f"shares: got {dict(shares)}, expected 0 to 1, together at most 1")
            if abs(shares.get(CHAMPION, rest) - rest) > 1e-6:
                raise Refusal("invalid_request", f"shares: got {dict(shares)}, which do not add up to 1")
            served = self._served
            for name in others:
                if name not in {arm.name for arm in served.arms}:
                    served = await self._with_arm(served, name)
            given = {arm.name: others.get(arm.name, arm.weight) for arm in served.arms if arm.name != CHAMPION}
            if sum(given.values()) > 1 + 1e-9:
                raise Refusal("invalid_request", f"shares: with those of other arms they are {sum(given.values()):g}")
            given[CHAMPION] = max(0.0, 1 - sum(given.values()))
            arms = [arm.model_copy(update={"weight": given[arm.name]}) for arm in served.arms]
            await self._turn([*arms], "split")
            return await self.state()

    async def kill(self, arm: str) -> dict[str, Any]:
        """Take an arm out at once: every replica is told before anything else. Raises Refusal for no such arm; a
        challenger that is not there is out already."""
        known = [one.name for one in self._served.arms if one.name != CHAMPION]
        if arm not in (*known, CHALLENGER):
            raise Refusal("conflict", f"got {arm!r:.80}, expected an arm beside the champion: {known}")
        if arm not in known:
            return await self.state()
        await self._told("kill", arm)
        async with self._one:
            await self._turn(self._served.without(arm).arms, "kill")
            return await self.state()

    async def promote(self) -> dict[str, Any]:
        """The challenger becomes the champion. Raises Refusal when there is none, or it is not fit to serve."""
        return await self._crown(CHALLENGER)

    async def rollback(self) -> dict[str, Any]:
        """The previous champion is champion again; raises as `promote`."""
        return await self._crown(promoted.PREVIOUS)

    async def _crown(self, alias: str) -> dict[str, Any]:
        async with self._one:
            catalog, now = self._registered(), self._served.arms[0]
            arm = await asyncio.to_thread(catalog.arm, alias, CHAMPION)
            if arm is None:
                raise Refusal("conflict", f"no version of {catalog.model} is {alias}")
            await self._fit(arm)
            try:
                await asyncio.to_thread(catalog.crown, alias, now.version)
            except (StoreError, InputError) as error:
                raise Refusal("conflict", f"{error}") from None
            if self._service.section.mode == "split":
                arm = arm.model_copy(update={"app": app_of(arm.bundle)})
            before = self._served
            try:
                await self._turn([arm.model_copy(update={"weight": 1.0})], alias)
            except Refusal:
                await asyncio.to_thread(catalog.crown, promoted.PREVIOUS, arm.version)
                await self._turn(before.arms, "back")
                raise
            return await self.state()

    async def _with_arm(self, served: Served, name: str) -> Served:
        arm = None if name != CHALLENGER else await asyncio.to_thread(self._registered().arm, CHALLENGER, name)
        if arm is None:
            raise Refusal("conflict", f"got {name!r:.80}, expected {CHALLENGER}, and a version with that alias")
        await self._fit(arm)
        arm = arm.model_copy(update={"app": app_of(arm.bundle)})
        return served.model_copy(update={"arms": [*served.arms, arm]})

    async def _fit(self, arm: ServedArm) -> None:
        """Raise Refusal unless the bundle passes the checks of `swap` here, before anybody is told of it."""
        try:
            spec = await asyncio.to_thread(spec_of, self._served.arms[0].bundle)
            student = await asyncio.to_thread(swap.opened, arm.bundle, limits_of(self._service.section), spec)
        except (BundleError, OSError, ValueError) as error:
            raise Refusal("refused_bundle", f"{error}") from None
        student.close()

    async def _turn(self, arms: list[ServedArm], why: str) -> None:
        """Serve these arms; returns when every replica does. Raises Refusal when one cannot, RaydistillError when an
        application does not come up."""
        before = self._served
        served = Served(arms=arms, salt=before.salt, sequence=before.sequence + 1)
        new = {arm.app for arm in arms if arm.app} - {arm.app for arm in before.arms if arm.app}
        if new:  # they run before anybody is sent there
            kept = [*before.arms, *(arm.model_copy(update={"weight": 0.0}) for arm in arms if arm.app in new)]
            await self._deploy(before, [arm for arm in kept if arm.app is not None])
        try:
            await self._all_serve(served)
        except Refusal:
            await self._told("reconfigure", before.model_copy(update={"sequence": served.sequence}).model_dump())
            self._served = before.model_copy(update={"sequence": served.sequence})
            raise
        self._served = served
        await self._deploy(served, [arm for arm in served.arms if arm.app is not None])
        self._remember(before, why)

    async def _deploy(self, served: Served, arms: list[ServedArm]) -> None:
        """Write the document: the gateway as `served` says, with the applications of `arms` beside it."""
        described = document(self._service, served)
        wanted = document(self._service, served.model_copy(update={"arms": [served.arms[0], *arms]}))
        apps = {one["name"]: one for one in wanted["applications"]}
        apps[GATEWAY] = next(one for one in described["applications"] if one["name"] == GATEWAY)
        await asyncio.to_thread(deploying.deploy, {**described, "applications": list(apps.values())})

    async def _all_serve(self, served: Served) -> None:
        """Tell all replicas, those that start meanwhile too; return when they serve this. Raises Refusal when one says
        why not, or after TURN_S."""
        until = time.monotonic() + TURN_S
        reports: list[dict[str, Any]] = []
        told = 0.0
        while time.monotonic() < until:
            if time.monotonic() > told + TELL_AGAIN_S:
                told = time.monotonic()
                await self._told("reconfigure", served.model_dump(mode="json"))
            reports = await self._told("report")
            if refused := [report["refused"] for report in reports if report["refused"]]:
                raise Refusal("refused_bundle", refused[0])
            if reports and all(report["served"]["sequence"] >= served.sequence for report in reports):
                return
            await asyncio.sleep(POLL_S)
        raise Refusal("conflict", f"not every gateway followed in {TURN_S:.0f} s: {reports}"[:500])

    async def _told(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every gateway replica; those that die meanwhile are replaced by ones that know already."""
        from ray import serve

        handle: Any = serve.get_deployment_handle(GATEWAY, app_name=GATEWAY, _check_exists=False)
        found = await handle.broadcast(method, *arguments).results_async(timeout_s=TELL_S, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                log.warning("a gateway did not hear %s: %r", method, one)
        return [one for one in found if not isinstance(one, BaseException)]

    def _registered(self) -> promoted.Catalog:
        if self._catalog is None:
            raise Refusal("conflict", "what is served is not registered: python -m serving up RECIPE serves what is")
        return self._catalog

    def _remember(self, before: Served, why: str) -> None:
        if self._state is None:
            return
        shares = {arm.name: arm.weight for arm in self._served.arms if arm.name != CHAMPION}
        line = {
            "at_ms": time.time_ns() // 1_000_000, "why": why, "shares": shares,
            "versions": {arm.name: arm.version for arm in self._served.arms},
            "before": {arm.name: arm.version for arm in before.arms},
        }  # fmt: skip
        self._state.parent.mkdir(parents=True, exist_ok=True)
        with self._state.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def remembered(state: Path) -> dict[str, float]:
    """Shares of arms beside the champion as the last change left them; {} when nothing was changed."""
    with contextlib.suppress(FileNotFoundError):
        lines = state.read_text().splitlines()
        return dict(json.loads(lines[-1])["shares"]) if lines else {}
    return {}


def begin(service: Service, served: Served, catalog: promoted.Catalog | None, state: Path | None) -> None:
    """Start the actor of this service."""
    import ray

    end()
    actor = ray.remote(Control).options(name=NAME, namespace=NAMESPACE, num_cpus=0, max_restarts=0)
    described = [one.model_dump(mode="json") for one in (service, served)]
    handle = actor.remote(*described, catalog, None if state is None else str(state))
    _kept["control"] = handle  # the actor lives as long as its first handle


_kept: dict[str, Any] = {}


def end() -> None:
    """End the actor, if there is one."""
    import ray

    _kept.clear()
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))

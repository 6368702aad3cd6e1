"""Changes what is served while it is served: shares, the kill switch, promotion and rollback.

One actor beside the gateways, which they begin; what is served it reads from Serve before every change, so that a
service that `serve deploy` or an operator began has it too, and it may be killed at any time. It checks a bundle before
anything moves, moves the alias (compare-and-set), tells every replica, and then writes the declarative document, so
that a replica that starts later serves the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import RaydistillError, StoreError
from serving.bundle.answer import BundleError
from serving.deployment import changes, deploying, promoted, standing
from serving.deployment.document import GATEWAY, app_of, limits_of
from serving.deployment.served import CHALLENGER, TEACHER, Served, ServedArm, spec_of
from serving.deployment.standing import Standing
from serving.monitoring import watcher
from serving.seams.controlling import NAME, NAMESPACE
from serving.seams.observe import CHAMPION
from serving.seams.problems import Refusal
from serving.students import swap

log = logging.getLogger(__name__)

TURN_S = 60.0  # for every replica to load a new champion
TELL_S = 5.0
TELL_AGAIN_S = 2.0
POLL_S = 0.05
LOOK_S, LOOKS = 30.0, 4  # it ends when it has found no gateway so often in a row
NO_ARMS = (CHAMPION, promoted.PREVIOUS, TEACHER)  # aliases that name no challenger


class Control:
    """Changes what is served; one change at a time."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """End this actor when its service is gone; called by whoever begins it."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._until_gone())

    async def state(self) -> dict[str, Any]:
        """What is served (`Served` as JSON), and what each gateway replica says (`Gateway.report`)."""
        now = await standing.read()
        return {**now.served.model_dump(mode="json"), "replicas": await self._told("report")}

    async def split(self, shares: Mapping[str, float], start: bool = True) -> dict[str, Any]:
        """Give arms these shares of all units, the champion the rest; an arm that is not there, or whose alias names
        another version by now, is started first, or (not `start`) is refused: a monitor's order may come when its arm
        has gone.

        Raises Refusal for shares that are none, an arm that nobody registered or that no experiment tries, or a bundle
        that is not fit.
        """
        async with self._one:
            others = {name: share for name, share in shares.items() if name != CHAMPION}
            rest = 1 - sum(others.values())
            if any(not 0 <= share <= 1 for share in shares.values()) or rest < -1e-9:
                raise Refusal("invalid_request", f"shares: got {dict(shares)}, expected 0 to 1, together at most 1")
            if abs(shares.get(CHAMPION, rest) - rest) > 1e-6:
                raise Refusal("invalid_request", f"shares: got {dict(shares)}, which do not add up to 1")
            now = await standing.read()
            served = now.served
            for name, share in others.items():
                _within(now, name, share)
                if start:
                    served = await self._with_arm(now, served, name, share)
                elif name not in {arm.name for arm in served.arms}:
                    raise Refusal("conflict", f"the arm {name} is not served any more")
            given = {arm.name: others.get(arm.name, arm.weight) for arm in served.arms if arm.name != CHAMPION}
            if sum(given.values()) > 1 + 1e-9:
                raise Refusal("invalid_request", f"shares: with those of other arms they are {sum(given.values()):g}")
            given[CHAMPION] = max(0.0, 1 - sum(given.values()))
            arms = [arm.model_copy(update={"weight": given[arm.name]}) for arm in served.arms]
            await self._turn(now, arms, "split")
            return await self.state()

    async def kill(self, arm: str) -> dict[str, Any]:
        """Take an arm out at once: every replica is told before anything else, also while Serve's controller is away.
        Raises Refusal for no such arm; a challenger that is not there is out already."""
        if arm == CHAMPION:
            raise Refusal("conflict", f"got {arm!r}, expected an arm beside the champion")
        await self._told("kill", arm)  # to replicas without such an arm it changes nothing
        async with self._one:
            now = await standing.read()
            known = [one.name for one in now.served.arms if one.name != CHAMPION]
            if arm not in (*known, CHALLENGER):
                raise Refusal("conflict", f"got {arm!r:.80}, expected an arm beside the champion: {known}")
            if arm in known:
                await self._turn(now, now.served.without(arm).arms, "kill")
            return await self.state()

    async def promote(self, arm: str = CHALLENGER, version: str | None = None) -> dict[str, Any]:
        """The challenger of this name becomes the champion; other challengers stay, with no share: what was shown of
        them was against another champion. Raises Refusal when there is none, it is not fit to serve, or it is another
        `version` than the one that was judged."""
        if arm in NO_ARMS:
            raise Refusal("conflict", f"got {arm!r:.80}, expected the name of a challenger")
        return await self._crown(arm, version)

    async def rollback(self) -> dict[str, Any]:
        """The previous champion is champion again, alone: every trial ends. Raises as `promote`."""
        return await self._crown(promoted.PREVIOUS)

    async def _crown(self, alias: str, version: str | None = None) -> dict[str, Any]:
        async with self._one:
            now = await standing.read()
            catalog, before = _registered(now), now.served
            arm = await asyncio.to_thread(catalog.arm, alias, CHAMPION)
            if arm is None:
                raise Refusal("conflict", f"no version of {catalog.model} is {alias}")
            if version is not None and arm.version != version:
                raise Refusal("conflict", f"{alias} names version {arm.version} by now, judged was {version}")
            await self._fit(now, arm)
            try:
                aliases = await asyncio.to_thread(catalog.crown, alias, arm.version, before.arms[0].version)
            except StoreError as error:
                raise Refusal("conflict", f"{error}") from None
            if now.section.mode == "split":
                arm = arm.model_copy(update={"app": app_of(arm.bundle)})
            stay = [] if alias == promoted.PREVIOUS else before.arms[1:]
            stay = [one for one in stay if one.name != alias and one.version != arm.version]
            arms = [arm.model_copy(update={"weight": 1.0}), *(one.model_copy(update={"weight": 0.0}) for one in stay)]
            try:
                await self._turn(now, arms, alias)
            except Refusal:
                await asyncio.to_thread(catalog.uncrown, alias, arm.version, aliases)
                raise
            return await self.state()

    async def _with_arm(self, now: Standing, served: Served, name: str, share: float) -> Served:
        """With the version that the arm's alias names; one that is served stays where no other has its alias, or it
        gets no share."""
        known = next((one for one in served.arms if one.name == name), None)
        if known is not None and (now.catalog is None or share == 0):
            return served
        arm = None if name in NO_ARMS else await asyncio.to_thread(_registered(now).arm, name, name)
        if known is not None and (arm is None or arm.version == known.version):
            return served
        if arm is None:
            raise Refusal("conflict", f"got {name!r:.80}, expected {CHALLENGER}, and a version with that alias")
        await self._fit(now, arm)
        arm = arm.model_copy(update={"app": app_of(arm.bundle)})
        arms = [arm if one.name == name else one for one in served.arms]
        return served.model_copy(update={"arms": arms if known is not None else [*arms, arm]})

    async def _fit(self, now: Standing, arm: ServedArm) -> None:
        """Raise Refusal unless the bundle passes the checks of `swap` here, before anybody is told of it."""
        try:
            spec = await asyncio.to_thread(spec_of, now.served.arms[0].bundle)
            student = await asyncio.to_thread(swap.opened, arm.bundle, limits_of(now.section), spec)
        except (BundleError, OSError, ValueError) as error:
            raise Refusal("refused_bundle", f"{error}") from None
        student.close()

    async def _turn(self, now: Standing, arms: list[ServedArm], why: str) -> None:
        """Serve these arms; returns when every replica does. Raises Refusal, and all is as before, when one cannot or a
        new application does not come up; RaydistillError when all serve them and an application has failed since."""
        before = now.served
        reported = [one["served"]["sequence"] for one in await self._told("report") if one["served"] is not None]
        # Replicas may be ahead of the document: an older one was deployed again.
        served = Served(arms=arms, salt=before.salt, sequence=1 + max([before.sequence, *reported]))
        new = [arm for arm in arms if arm.app and arm.app not in {one.app for one in before.arms}]
        try:
            if new:  # they run before anybody is sent there
                await self._deploy(now, before, [*before.arms, *new])
        except RaydistillError as error:
            await self._back(now, before)
            raise Refusal("conflict", f"{error}"[:500]) from None
        try:
            await self._all_serve(served)
        except Refusal:
            back = before.model_copy(update={"sequence": served.sequence})
            await self._told("reconfigure", back.model_dump(mode="json"))
            await self._back(now, back)
            raise
        await self._deploy(now, served, served.arms)
        changes.note(now, served, why)

    async def _back(self, now: Standing, served: Served) -> None:
        """Write the document as it was before a change that failed. Where even that does not come up it is said here:
        the caller is told of the change."""
        try:
            await self._deploy(now, served, served.arms)
        except RaydistillError:
            log.exception("what was served before is not all there")

    async def _deploy(self, now: Standing, served: Served, arms: Sequence[ServedArm]) -> None:
        """Write the document: the gateway as `served` says, with the applications of `arms` beside it."""
        ours = [GATEWAY, *(arm.app for arm in arms if arm.app is not None)]
        described = {"applications": now.turned(served, arms)}
        await asyncio.to_thread(deploying.deploy, described, ours)

    async def _all_serve(self, served: Served) -> None:
        """Tell all replicas, those that start meanwhile too; return when they serve this. Raises Refusal when one says
        why not, or after TURN_S."""
        until, wanted = time.monotonic() + TURN_S, served.model_dump(mode="json")
        reports: list[dict[str, Any]] = []
        told = 0.0
        while time.monotonic() < until:
            if time.monotonic() > told + TELL_AGAIN_S:
                told = time.monotonic()
                await self._told("reconfigure", wanted)
            reports = await self._told("report")
            if refused := [report["refused"] for report in reports if report["refused"]]:
                raise Refusal("refused_bundle", refused[0])
            if reports and all(report["served"] == wanted for report in reports):
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

    async def _until_gone(self) -> None:
        import ray

        missed = 0
        while missed < LOOKS:
            await asyncio.sleep(LOOK_S)
            try:
                await standing.read()
                missed = 0
            except Refusal:
                missed += 1
        ray.kill(ray.get_runtime_context().current_actor)


def _registered(now: Standing) -> promoted.Catalog:
    if now.catalog is None:
        raise Refusal("conflict", "what is served is not registered: python -m serving up RECIPE serves what is")
    return now.catalog


def _within(now: Standing, name: str, share: float) -> None:
    """Raise Refusal for a share that no unit would see: the recipe's experiments say whose units may be whose."""
    if now.plan.observer is None or now.plan.observer["open"] != watcher.OPEN:
        return
    owned = watcher.arms(now.plan.observer)
    if name not in owned:
        raise Refusal("conflict", f"got {name!r:.80}, expected an arm that experiment.others names: {sorted(owned)}")
    if share > owned[name] + 1e-9:
        raise Refusal("invalid_request", f"shares: got {share:g} for {name}, whose experiment owns {owned[name]:g}")


def join() -> None:
    """Begin the actor where there is none; called by every gateway, so that who deploys one has a control. A failure
    is said: requests need no control, and the next call for one tries again."""
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():  # a gateway outside of Serve
        return
    actor: Any = ray.remote(Control)
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "num_cpus": 0}
    try:
        handle = actor.options(**options, max_restarts=-1).remote()
        handle.watch.remote()
    except (ValueError, RayError):
        log.exception("the control is not begun")


def end() -> None:
    """End the actor, if there is one."""
    import ray

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))

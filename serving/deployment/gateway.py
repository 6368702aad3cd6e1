"""The gateway replica: the champion in this process, other arms and the teacher over handles, the cascade between them.

A plain class: `serving.deployment.builders` makes it a Ray Serve deployment. What is served comes as `user_config`, so
a change of it restarts nothing: shares take effect at once, a new champion when it is loaded and tried.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from cluster import metrics
from serving.bundle.answer import Answer, BundleError
from serving.deployment import control, noting
from serving.deployment.arm import Answers, LiveArm, Remote
from serving.deployment.loopback import keep_replica_home
from serving.deployment.served import STUDENT, TEACHER, GatewayPlan, Served, ServedArm, spec_of
from serving.fallback import cascade
from serving.fallback.guard import ArmGuard, Counters, TeacherGuard
from serving.seams import controlling, memory, observe
from serving.seams.observe import CHAMPION, Feedback, Outcome
from serving.seams.problems import Refusal
from serving.students import swap
from serving.students.batcher import Limits
from serving.students.stepper import Pieces, Written
from serving.students.student import Reads, warm_up
from serving.web.asked import Asked, Given
from serving.web.auth import Keys, RateLimit

log = logging.getLogger(__name__)

WARM_S = 30.0


class Gateway:
    """Answers HTTP requests; one instance per replica."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """`plan` is a GatewayPlan as JSON. What is served follows by `reconfigure`, before the first request."""
        keep_replica_home()
        self.plan = GatewayPlan.parse(plan)
        section = self.plan.section
        self.keys, self.limit = Keys(self.plan.keys), RateLimit(section.per_minute)
        self.allow_fault_injection, self.megapixels_max = self.plan.allow_fault_injection, section.megapixels_max
        self.body_bytes_max = int(section.body_mib * 2**20)
        self.observer = observe.open_observer(self.plan.observer, self._ask)
        self.shelf = swap.Shelf(Limits(section.batch_max, section.queue_max, section.queue_ms))
        self._teacher_guard = TeacherGuard(section)
        self._teacher: Remote | None = None
        self._served: Served | None = None
        self._arms: dict[str, LiveArm] = {}
        self._breakers = noting.Breakers()
        self._refused: str | None = None
        self._wanted: Served | None = None
        self._turning: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve runs as this deployment's HTTP application."""
        from serving.web.routes import create

        return create(self)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve something else (`Served` as JSON). The first time this returns when it is served; later at once, and
        the change takes effect when what is new is loaded and fit, or never (see `report`)."""
        wanted = Served.parse(user_config)
        if self._served is None:
            await self._turn_to(wanted)
            await self._warm()
            memory.Report("gateway", wanted.arms[0].model).loaded()
            await asyncio.to_thread(control.join)
        elif (wanted.sequence or math.inf) >= self._served.sequence and not self._turning_to(wanted):
            if self._turning is not None:
                self._turning.cancel()
            self._wanted, self._refused = wanted, None
            self._turning = asyncio.create_task(self._try(wanted))

    async def kill(self, arm: str) -> None:
        """Take an arm out of the split at once; its units go to the champion."""
        if self._served is not None:
            self._take(self._served.without(arm), self._arms)

    def report(self) -> dict[str, Any]:
        """What this replica serves (`Served` as JSON) and, of the last change, why it was refused."""
        served = None if self._served is None else self._served.model_dump(mode="json")
        breakers = {name: arm.guard.state for name, arm in self._arms.items()}
        breakers[TEACHER] = self._teacher_guard.breaker.state
        return {"served": served, "refused": self._refused, "breakers": breakers}

    def _turning_to(self, wanted: Served) -> bool:
        """Whether this very change is under way already: it is told twice, by the control and by Serve."""
        return self._turning is not None and not self._turning.done() and self._wanted == wanted

    async def _try(self, wanted: Served) -> None:
        try:
            await self._turn_to(wanted)
        except (BundleError, OSError, ValueError) as error:
            self._refused = f"{error}"
            log.error("the new model is refused, the old one serves on: %s", error)

    async def _turn_to(self, wanted: Served) -> None:
        """Make every arm ready, then serve them all from one moment to the next."""
        now = self._arms[CHAMPION].spec if self._arms else None
        arms = {}
        for arm in wanted.arms:
            known = self._arms.get(arm.name)
            if known is not None and (known.arm.bundle, known.arm.app) == (arm.bundle, arm.app):
                arms[arm.name] = LiveArm(arm, known.answers, known.guard, known.spec)
            else:
                spec = spec_of(arm.bundle)
                answers: Answers
                if arm.app is None:
                    answers = await self.shelf.load(arm.bundle, now)
                else:
                    answers = Remote(arm.app, STUDENT)
                    await self._first_call(arm.name, answers.answer(warm_up(spec), WARM_S * 1000))
                arms[arm.name] = LiveArm(arm, answers, self._guard(arm), spec)
        self._take(wanted, arms)

    def _take(self, served: Served, arms: dict[str, LiveArm]) -> None:
        self._served, self._arms = served, arms
        self.observer.configure(served.chosen_from(), served.salt)

    def _guard(self, arm: ServedArm) -> ArmGuard:
        fallbacks, hedges = metrics.counter("fallbacks"), metrics.counter("hedges")
        counters = Counters(
            lambda reason: fallbacks.inc(tags={"model": arm.model, "reason": reason}),
            lambda result: hedges.inc(tags={"model": arm.model, "result": result}),
        )
        return ArmGuard(self.plan.section, self._teacher_guard, counters)

    async def _warm(self) -> None:
        if self.plan.teacher is not None:
            await self._first_call(TEACHER, self._ask_teacher(warm_up(self._arms[CHAMPION].spec)))

    async def _first_call(self, name: str, asked: Coroutine[Any, Any, Answer]) -> None:
        """Ask once: connecting would be charged to the first request's deadline. It may be down."""
        call = asyncio.ensure_future(asked)
        try:
            done, _ = await asyncio.wait([call], timeout=WARM_S)
        finally:
            call.cancel()
        if not done or call.exception() is not None:
            why = call.exception() if done else f"nothing in {WARM_S} s"
            log.warning("%s does not answer yet: %s", name, why)

    @property
    def reads(self) -> Reads:
        """See `Desk.reads`."""
        return Reads.of(self._arms[CHAMPION].spec)

    @property
    def task(self) -> str:
        """See `Desk.task`."""
        return str(self._arms[CHAMPION].spec["task"])

    async def answer(self, asked: Asked) -> Given:
        """See `Desk.answer`."""
        arm = self._choose(asked)
        within_ms = self.plan.section.total_ms
        kept: list[Written] = []

        async def student() -> Answer:
            if asked.route == "chat" and arm.spec["task"] == "text_generation":
                kept.append(await arm.answers.written(asked.item, asked.writing, within_ms, asked.delay_ms))
                return kept[0].answer
            return await arm.answers.answer(asked.item, within_ms, asked.delay_ms)

        outcome = await self._raced(asked, arm, student, self._policy(arm))
        return self._given(arm, outcome, kept[0] if kept and not outcome.fell_back else None)

    async def write(self, asked: Asked) -> AsyncGenerator[str | Given, None]:
        """See `Desk.write`. Deadlines are those of the first piece; a threshold of confidence cannot hold here, for
        the confidence of a text is known at its end."""
        arm = self._choose(asked)
        if arm.spec["task"] != "text_generation":  # its whole answer is the only piece
            given = await self.answer(asked)
            yield given.answer.text
            yield given
            return
        began = time.perf_counter()
        pieces: Pieces = arm.answers.write(asked.item, asked.writing, asked.delay_ms)
        text = noting.Text()

        async def first() -> Answer:
            return text.took(await anext(pieces))

        async with aclosing(pieces):
            policy = dataclasses.replace(self._policy(arm), confidence_min=0.0)
            outcome = await self._raced(asked, arm, first, policy, streamed=True)
            ms = (time.perf_counter() - began) * 1000
            how: Outcome = "failed"
            try:
                yield outcome.answer.text
                if not outcome.fell_back and text.written is None:
                    async for piece in pieces:
                        text.took(piece)
                        if isinstance(piece, str):
                            yield piece
                how = noting.told(outcome)
            except (GeneratorExit, asyncio.CancelledError):  # the caller has left
                how = noting.told(outcome)
                raise
            finally:
                outcome = text.outcome(outcome)
                self._note(asked, arm, outcome, how, ms)
            yield self._given(arm, outcome, None if outcome.fell_back else text.written)

    def feedback(self, given: Feedback) -> None:
        """See `Desk.feedback`."""
        self.observer.feedback(given)

    def models(self) -> list[dict[str, Any]]:
        """See `Desk.models`."""
        found = [
            {"id": live.arm.model, "version": live.arm.version, "arm": live.arm.name, "weight": live.arm.weight,
             "task": live.spec["task"], "scheme": live.spec["scheme"], "batch_invariant": live.spec["batch_invariant"]}
            for live in self._arms.values()
        ]  # fmt: skip
        teacher = {"id": TEACHER, "version": self.plan.teacher, "arm": None, "task": self.task}
        return found if self.plan.teacher is None else [*found, teacher]

    def example(self) -> dict[str, Any]:
        """See `Desk.example`."""
        from serving.web.examples import predict_body

        return predict_body(self._arms[CHAMPION].spec)

    async def control(self, action: str, **arguments: Any) -> dict[str, Any]:
        """See `Desk.control`."""
        await asyncio.to_thread(control.join)
        return await controlling.call(action, **arguments)

    async def __del__(self) -> None:
        """Called by Ray Serve when the replica ends."""
        await self.observer.close()
        self.shelf.close()

    def _policy(self, arm: LiveArm) -> cascade.Policy:
        section = self.plan.section
        sure = float(arm.spec["threshold"]["confidence_min"]) if "threshold" in arm.spec else 0.0
        return cascade.Policy(section.student_ms, section.total_ms, max(section.confidence_min, sure))

    def _choose(self, asked: Asked) -> LiveArm:
        return self._arms[self.observer.choose(asked.unit)]

    async def _raced(
        self, asked: Asked, arm: LiveArm, student: cascade.Ask, policy: cascade.Policy, streamed: bool = False
    ) -> cascade.Outcome:
        """Who answers; it is noted here, but for a text that only begins with this answer (`streamed`)."""
        teacher = (lambda: self._ask_teacher(asked.item)) if self.plan.teacher is not None else None
        began, outcome = time.perf_counter(), None
        how: Outcome = "failed"
        try:
            outcome = await cascade.answer(student, teacher, policy, arm.guard)
            how = noting.told(outcome)
            return outcome
        except BundleError:
            how = "unreadable"
            raise
        except Refusal:
            how = "shed"
            metrics.counter("shed").inc(tags={"model": arm.arm.model})
            raise
        except cascade.UnansweredError:
            how = "unanswered"
            raise
        finally:
            metrics.counter("requests").inc(tags={"model": arm.arm.model, "outcome": how})
            if outcome is None or not streamed:
                self._note(asked, arm, outcome, how, (time.perf_counter() - began) * 1000)

    def _note(self, asked: Asked, arm: LiveArm, outcome: cascade.Outcome | None, how: Outcome, ms: float) -> None:
        for target, breaker in ((arm.arm.name, arm.guard.breaker), (TEACHER, self._teacher_guard.breaker)):
            self._breakers.note(arm.arm.model, target, breaker.state == "open")
        self.observer.answered(noting.record(asked, arm, outcome, how, ms, str(self.plan.teacher)))

    def _given(self, arm: LiveArm, outcome: cascade.Outcome, written: Written | None) -> Given:
        who = noting.signed(arm, outcome, str(self.plan.teacher))
        return Given(outcome.answer, arm.arm.name, *who, outcome.fell_back, outcome.reason, written)

    async def _ask(self, name: str, item: Mapping[str, Any]) -> Answer:
        """See `observe.Ask`."""
        if name == TEACHER:
            return await self._ask_teacher(item)
        return await self._arms[name].answers.answer(item, self.plan.section.total_ms)

    async def _ask_teacher(self, item: Mapping[str, Any]) -> Answer:
        if self._teacher is None:
            self._teacher = Remote(TEACHER, TEACHER)
        return await self._teacher.taught(item)

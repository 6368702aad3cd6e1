"""The gateway replica: the student in this process, the teacher over a handle, and the cascade between them.

A plain class: `serving.app` makes it a Ray Serve deployment, and tests run it with stand-ins for the teacher.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.recipe.serving import ServingSection
from serving import cascade
from serving.bundle.answer import Answer, BundleError
from serving.loopback import keep_replica_home
from serving.student import WARM_UP, Student

log = logging.getLogger(__name__)

WARM_S = 30.0
TEACHER = "teacher"  # name of the teacher's application and deployment


@dataclass(frozen=True)
class Names:
    """How answers are signed: the registered model and its version, and the teacher's version."""

    model: str = "student"
    version: str = "unregistered"
    teacher_version: str = "unregistered"


@dataclass(frozen=True)
class Plan:
    """What a gateway serves: a bundle's folder, under which names and rules, and whether there is a teacher to ask."""

    bundle: Path
    names: Names
    section: ServingSection
    teacher: bool
    allow_fault_injection: bool = False


class Gateway:
    """Answers HTTP requests; one instance per replica."""

    def __init__(self, plan: Plan) -> None:
        """Load the student. Raises BundleError for a bundle that is incomplete or changed."""
        from ray.util.metrics import Counter

        keep_replica_home()
        self.plan, self.student = plan, Student(plan.bundle)
        self.images_max, self.allow_fault_injection = self.student.images_max, plan.allow_fault_injection
        self.frames_max, self.hears = self.student.frames_max, self.student.hears
        section = plan.section
        self.policy = cascade.Policy(section.student_ms, section.total_ms, section.confidence_min)
        self.requests = Counter(
            "raydistill_requests", "Requests to /v1/predict by who answered (count)", tag_keys=("model", "outcome")
        )
        self.fallbacks = Counter(
            "raydistill_fallbacks", "Student answers not taken at once, by reason (count)", tag_keys=("model", "reason")
        )
        self._teacher: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve runs as this deployment's HTTP application."""
        from serving.routes import create

        return create(self)

    async def predict(self, item: dict[str, Any], delay_ms: float = 0.0) -> cascade.Outcome:
        """See `routes.Desk.predict`."""
        teacher = (lambda: self._ask_teacher(item)) if self.plan.teacher else None
        student = lambda: self.student.answer(item, delay_ms)  # noqa: E731
        outcome = "failed"
        try:
            answered = await cascade.answer(student, teacher, self.policy, self._fell)
            outcome = "teacher" if answered.fell_back else "student" if answered.reason is None else "student_anyway"
            return answered
        except BundleError:
            outcome = "unreadable"
            raise
        except cascade.UnansweredError:
            outcome = "unanswered"
            raise
        finally:
            self.requests.inc(tags={"model": self.plan.names.model, "outcome": outcome})

    async def warm(self) -> None:
        """Ask the teacher once: connecting would be charged to the first fallback's deadline. It may be down."""
        if not self.plan.teacher:
            return
        call = asyncio.ensure_future(self._ask_teacher(WARM_UP))
        done, _ = await asyncio.wait([call], timeout=WARM_S)
        if not done or call.exception() is not None:
            call.cancel()
            log.warning("the teacher does not answer yet: %s", call.exception() if done else f"nothing in {WARM_S} s")

    def models(self) -> list[dict[str, Any]]:
        """See `routes.Desk.models`."""
        spec = self.student.model.spec
        student = {
            "id": self.plan.names.model, "version": self.plan.names.version, "arm": "student", "task": spec["task"],
            "scheme": spec["scheme"], "batch_invariant": spec["batch_invariant"],
        }  # fmt: skip
        teacher = {"id": TEACHER, "version": self.plan.names.teacher_version, "arm": None, "task": spec["task"]}
        return [student, teacher] if self.plan.teacher else [student]

    def _fell(self, reason: cascade.Reason) -> None:
        self.fallbacks.inc(tags={"model": self.plan.names.model, "reason": reason})

    async def _ask_teacher(self, item: Mapping[str, Any]) -> Answer:
        from ray import serve

        if self._teacher is None:
            # gRPC: 1-2 ms a call instead of 3-6, and cancelled there too when it is here (findings/serving.md 2, 3).
            handle = serve.get_deployment_handle(TEACHER, app_name=TEACHER, _check_exists=False)
            self._teacher = handle.options(_by_reference=False)
        response = self._teacher.answer.remote(item)
        try:
            found: Answer = await response
            return found
        except asyncio.CancelledError:
            response.cancel()
            raise

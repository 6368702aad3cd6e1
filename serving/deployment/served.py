"""What is served, as plain JSON: it travels as Serve's `user_config`, so a change of it restarts nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cluster.recipe.base import Section
from cluster.recipe.serving import ServingSection
from serving.seams.observe import CHAMPION, Arm
from serving.web.auth import Key

TEACHER = "teacher"  # name of the teacher's application and deployment
STUDENT = "student"  # name of the deployment in an arm's application
CHALLENGER = "challenger"


class ServedArm(Section):
    """A student that answers some of the units."""

    name: str = Field(min_length=1, description="champion, challenger or another arm.")
    model: str = Field("student", description="Registered model.")
    version: str = Field("unregistered", description="Its version.")
    bundle: str = Field(description="The bundle's folder.")
    app: str | None = Field(None, description="Application that answers; null: the gateway's own process.")
    weight: float = Field(1.0, ge=0, le=1, description="Share of all units.")


class Served(Section):
    """All arms, the champion first; shares add up to 1."""

    arms: list[ServedArm] = Field(min_length=1, description="Who may answer.")
    salt: str = Field("", description="Of the hash that assigns units to arms; another one deals anew.")
    sequence: int = Field(0, ge=0, description="Counts changes; 0: as people wrote it, whatever was changed before.")

    @model_validator(mode="after")
    def shares_add_up(self) -> Self:
        """Refuse what would leave units without an arm."""
        names = [arm.name for arm in self.arms]
        if names[0] != CHAMPION or len(set(names)) < len(names):
            raise ValueError(f"arms: got {names}, expected {CHAMPION} first and no name twice")
        if abs(sum(arm.weight for arm in self.arms) - 1) > 1e-6:
            raise ValueError("the arms' weights do not add up to 1")
        return self

    def chosen_from(self) -> list[Arm]:
        """The arms as the observer sees them."""
        return [Arm(arm.name, arm.model, arm.version, arm.weight) for arm in self.arms]

    def without(self, name: str) -> Self:
        """The same with an arm's share given to the champion, at once."""
        share = sum(arm.weight for arm in self.arms if arm.name == name)
        gains = {CHAMPION: share, name: -share}
        weights = {arm.name: arm.weight + gains.get(arm.name, 0.0) for arm in self.arms}
        # Sums of shares are off by a rounding, and 1.0000000000000002 is no share.
        moved = [arm.model_copy(update={"weight": min(1.0, max(0.0, weights[arm.name]))}) for arm in self.arms]
        return self.model_copy(update={"arms": moved})


class GatewayPlan(Section):
    """What a gateway replica is built with; a change of it restarts the replicas."""

    section: ServingSection = Field(description="Deadlines, limits, budgets.")
    teacher: str | None = Field(None, description="The teacher's version; null: there is none.")
    keys: list[Key] = Field([], description="API keys, as digests.")
    allow_fault_injection: bool = Field(False, description="Let a header make the student late.")
    observer: dict[str, Any] | None = Field(None, description="See serving.seams.observe.open_observer.")


@dataclass(frozen=True)
class Names:
    """How answers are signed: the registered model and its version, and the teacher's version."""

    model: str = "student"
    version: str = "unregistered"
    teacher_version: str = "unregistered"


def spec_of(bundle: str | Path) -> dict[str, Any]:
    """A bundle's description, unchecked: what task it does and what it reads."""
    return dict(json.loads((Path(bundle) / "bundle.json").read_text()))

"""Who gets the challenger, how its share grows, and when it is promoted or rolled back."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cluster.recipe.base import Section

NAMED = r"-[a-z0-9][a-z0-9_-]{0,40}"  # what follows `challenger` in a further arm's name, which is its alias too
Arm = Annotated[str, Field(pattern=rf"^challenger{NAMED}$")]
Metric = Literal["agreement", "reward", "errors", "deferrals"]


class ExperimentSection(Section):
    """One experiment: the champion against the challenger on this service's own traffic, judged at any time."""

    enabled: bool = Field(True, description="Watch, log and judge what is served; false: the champion answers, unseen.")
    name: str = Field("challenger", min_length=1, description="Name of the experiment; its arm is the challenger.")
    units: float = Field(1.0, gt=0.0, le=1.0, description="Share of all units that the experiment owns (0..1).")
    others: dict[Arm, float] = Field(
        {},
        description="Further arms, each an experiment of its own: challenger-NAME, which is the alias of its version "
        "too -> share of all units that it owns (0..1).",
    )
    counted: Literal["unit", "request"] = Field(
        "unit", description="What counts once; request is sound only where a unit's requests are independent."
    )
    ramp: list[float] = Field(
        [0.01, 0.05, 0.2, 0.5], min_length=1, description="The challenger's shares of all units, one step each (0..1)."
    )
    shadow_units: int = Field(
        0, ge=0, description="Requests judged in the challenger's shadow before its first user (count); 0: none."
    )
    step_units: int = Field(200, ge=1, description="Judged units of the challenger before the next step (count).")
    step_s: float = Field(60.0, ge=0.0, description="Least time on one step of the ramp (s).")
    metric: Metric = Field("agreement", description="What decides: agreement with the teacher, or the users' reward.")
    guards: list[Metric] = Field(
        ["agreement", "errors"], description="Where the challenger is shown to be worse in one of them, it is stopped."
    )
    alpha: float = Field(
        0.05, gt=0.0, lt=1.0,
        description="Chance of stopping an equal challenger, all guards and looks together (probability).",
    )  # fmt: skip
    promote: Literal["better", "not_worse", "never"] = Field(
        "not_worse", description="What must be shown before a promotion; never: people decide."
    )
    margin: float = Field(
        0.02, gt=0.0, lt=1.0, description="not_worse: the most the challenger may lose in `metric` (absolute)."
    )
    srm_alpha: float = Field(
        0.001, gt=0.0, lt=1.0, description="Chance of a false alarm that the split is not what was asked (probability)."
    )
    shadow: float = Field(
        0.1, ge=0.0, le=1.0, description="Share of requests whose answer is compared with the teacher's, unseen (0..1)."
    )
    shadow_concurrency: int = Field(1, ge=1, description="Shadow requests at once in one gateway replica (count).")
    shadow_queue: int = Field(
        64, ge=1, description="Waiting shadow requests; what is more is dropped, counted (count)."
    )
    price_per_hour: float = Field(
        0.0, ge=0.0, description="Price of the machine that answers (money per compute hour); 0: shown in seconds."
    )
    teacher_price_per_1000: float = Field(
        0.0, ge=0.0, description="Price of 1,000 teacher answers; 0: its compute at price_per_hour."
    )

    @model_validator(mode="after")
    def ramps_up(self) -> Self:
        """Refuse a ramp that falls, that leaves 0..1 or the experiment's units, and experiments that own too much."""
        if sorted(set(self.ramp)) != self.ramp or self.ramp[0] <= 0:
            raise ValueError("ramp: shares above 0 that rise, such as [0.01, 0.1, 0.5]")
        if self.ramp[-1] > self.units:
            raise ValueError("ramp: at most `units`, the share of units that the experiment owns")
        if self.units + sum(self.others.values()) > 1 + 1e-9:
            raise ValueError("units and others: together at most 1, for experiments do not share units")
        return self

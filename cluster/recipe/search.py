"""Which knobs of a recipe a search may turn, and what it looks for."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from cluster.recipe.base import Section

Objective = Literal["quality", "latency_ms", "bytes"]


class Knob(Section):
    """The values that one knob may take: a range (`between`, `log`, `integer`) or a list (`choice`)."""

    between: list[float] | None = Field(
        None, min_length=2, max_length=2, description="[least, most], every number between alike (the field's unit)."
    )
    log: list[float] | None = Field(
        None, min_length=2, max_length=2, description="[least, most], every factor between alike (the field's unit)."
    )
    integer: list[int] | None = Field(
        None, min_length=2, max_length=2, description="[least, most], whole numbers (the field's unit)."
    )
    choice: list[JsonValue] | None = Field(
        None, min_length=2, description="One of these; numbers in rising order are taken as neighbours."
    )
    step: float | None = Field(None, gt=0.0, description="Distance of neighbours in `between` and `integer`.")
    at: list[str] = Field(
        [], description="Dotted paths that all get the value; []: the knob's own name is the path, list items by index."
    )

    @model_validator(mode="after")
    def says_one_thing(self) -> Self:
        """Refuse several kinds of values at once, an empty range, and a step where nothing has one."""
        given = [name for name in ("between", "log", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("one of between, log, integer, choice")
        bounds = self.between or self.log or self.integer
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError("[least, most] with least below most")
        if self.log is not None and self.log[0] <= 0:
            raise ValueError("a least above 0 with log")
        if self.step is not None and (self.log is not None or self.choice is not None):
            raise ValueError("no step with log or choice")
        if self.integer is not None and self.step is not None and self.step != int(self.step):
            raise ValueError("a whole step with integer")
        return self


class SearchSection(Section):
    """The space of a search, and how its trials are measured: on validation rows, never on test rows."""

    knobs: dict[str, Knob] = Field(
        {},
        description="Dotted path of a recipe field (or a name, with `at`) -> the values it may take; null takes an "
        "inherited one away.",
    )
    objectives: list[Objective] = Field(
        ["quality", "latency_ms", "bytes"],
        min_length=1,
        description="What the Pareto front is of, quality first. quality: primary metric of the exported INT8 student; "
        "latency_ms: its p50 at batch 1; bytes: its engine file.",
    )
    rows: int = Field(1000, ge=20, description="Validation rows that the exported student answers (rows).")
    agreement_rows: int = Field(
        256, ge=20, description="Validation rows that agreement with the teacher is measured on at every rung (rows)."
    )
    latency_requests: int = Field(60, ge=20, description="Requests timed at batch 1 (count).")
    reports: int = Field(9, ge=2, description="Reports of a trial while it trains, evenly over its steps (count).")
    grace_share: float = Field(
        0.1, gt=0.0, lt=1.0, description="No trial is stopped before this share of its steps. Source: ASHA's r."
    )
    reduction: int = Field(
        3, ge=2, description="Of the trials that reach a rung one in so many goes on. Source: arXiv 1810.05934, eta."
    )
    startup: int = Field(8, ge=1, description="Random trials before the model of a searcher is asked (count).")
    finalists: int = Field(
        3, ge=1, description="Best trials that are trained again, beside the recipe as it was (count)."
    )
    confirm_seeds: int = Field(
        2,
        ge=0,
        description="Further seeds of the student that finalists are trained with; these alone name the best. 0: the "
        "trial that was best on the way is, lucky or not; else at least 2.",
    )
    gpus: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="GPUs that one trial takes (0.25: four trials share one; 0: none); null: one where the nodes for "
        "training have any, as in `distill`.",
    )
    price_per_hour: float = Field(
        0.0, ge=0.0, description="Price of the place that one trial takes for an hour, for --money (currency)."
    )
    seed: int = Field(0, ge=0, description="Seed of what the searcher draws.")

    @field_validator("knobs", mode="before")
    @classmethod
    def null_is_no_knob(cls, knobs: Any) -> Any:
        """Drop what a recipe that `extends` another one has set to null: its stages may not be the other one's."""
        return {name: knob for name, knob in knobs.items() if knob is not None} if isinstance(knobs, Mapping) else knobs

    @field_validator("confirm_seeds")
    @classmethod
    def one_seed_shows_no_spread(cls, confirm_seeds: int) -> int:
        """Refuse a single one."""
        if confirm_seeds == 1:
            raise ValueError("0, or 2 and more: one seed does not show how far seeds are apart")
        return confirm_seeds

    @model_validator(mode="after")
    def quality_comes_first(self) -> Self:
        """Refuse an objective twice, and a search that is not after quality."""
        if self.objectives[0] != "quality" or len(set(self.objectives)) != len(self.objectives):
            raise ValueError("quality first, and every objective once")
        return self

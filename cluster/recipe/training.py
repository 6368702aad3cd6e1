"""How one network is trained: the stages it goes through and the engine that drives them."""

from typing import Literal, Self, TypeGuard

from pydantic import ConfigDict, Field, JsonValue, model_validator

from cluster.recipe.base import Section
from cluster.recipe.engine import EngineSection
from cluster.recipe.stage_parts import EarlyStop, Layers, OnPolicy, Rows


class Ramp(Section):
    """A number that changes over a stage's steps, written where a plain number stands: {kind, from, to}."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    kind: Literal["constant", "linear", "exponential", "cosine", "validation"] = Field(
        description="linear: equal differences; exponential: equal ratios; cosine: slow at both ends; validation: as "
        "far from `from` to `to` as the primary metric on validation rows is from 0 to 1 (evaluate_every)."
    )
    start: float = Field(alias="from", description="Value at the stage's first step, or at metric 0 (also `from`).")
    end: float | None = Field(
        None, alias="to", description="Value at its last step, or at metric 1 (also `to`); null: constant."
    )

    @model_validator(mode="after")
    def ends_fit_the_kind(self) -> Self:
        """Refuse a change without an end, a constant with another one, and equal ratios through zero."""
        if self.kind == "constant" and self.end not in (None, self.start):
            raise ValueError("no `to` beside kind constant")
        if self.kind != "constant" and self.end is None:
            raise ValueError(f"a `to` beside kind {self.kind}")
        if self.kind == "exponential" and min(self.ends) <= 0:
            raise ValueError("`from` and `to` above 0 beside kind exponential")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Values at the first and the last step; what lies between is never beyond them."""
        return self.start, self.start if self.end is None else self.end


class Focus(Section):
    """A rule for how much a position counts in a loss; `params` are checked by the rule's own Section."""

    name: str = Field(description="Key in `jobs.training.weighting.RULES`.")
    params: dict[str, JsonValue] = Field({}, description="The rule's own knobs; units are said with the rule.")


class LossTerm(Section):
    """A loss by name: how much it counts, its own knobs, and which positions it looks at."""

    name: str = Field(description="Key in `jobs.training.losses.LOSSES`.")
    weight: float | Ramp = Field(
        1.0, description="Share before normalising over the stage's terms (unitless), or its change over the stage."
    )
    params: dict[str, JsonValue] = Field(
        {},
        description="The loss's own knobs; any that is a number may be a {kind, from, to}, as a falling temperature.",
    )
    focus: list[Focus] = Field(
        [],
        description="Rules that weigh positions, multiplied; empty: every position alike. Means stay weighted means.",
    )

    @model_validator(mode="after")
    def weight_is_not_negative(self) -> Self:
        """Refuse a weight below zero, also one that falls there on its way."""
        if (min(self.weight.ends) if isinstance(self.weight, Ramp) else self.weight) < 0:
            raise ValueError("a weight of 0 or more")
        return self


class Phase(Section):
    """A stretch of a stage's steps and the slices its rows are drawn from: the rungs of a curriculum, easy to hard."""

    share: float = Field(gt=0.0, description="Length, relative to the stage's other phases (unitless).")
    slices: dict[str, float] = Field(
        {}, description="Slice name -> sampling weight (unitless); empty: every row alike."
    )
    easiest: float = Field(
        1.0, gt=0.0, le=1.0, description="Only this easiest share of the stage's rows, ranked by `by` (share)."
    )
    by: Literal["difficulty", "length", "modalities"] = Field(
        "difficulty",
        description="What ranks rows from easy to hard. difficulty: the teacher's margin, small is hard; length: "
        "tokens; modalities: kinds of input beside the question.",
    )


class Stage(Section):
    """One stretch of training with its own losses, learning rate and trainable parameters."""

    name: str = Field(description="What the report calls it.")
    enabled: bool = Field(True, description="Train it; false: leave it out, which shows what it is worth.")
    epochs: float = Field(gt=0.0, description="Passes over the stage's rows; fractions are allowed.")
    min_steps: int = Field(0, ge=0, description="At least this many optimizer steps, however few the rows (steps).")
    learning_rate: float = Field(gt=0.0, le=1.0, description="Peak learning rate of AdamW (per step).")
    schedule: Literal["constant", "linear", "cosine", "one_cycle", "step"] = Field(
        "one_cycle", description="Shape of the learning rate over steps."
    )
    step_factor: float = Field(
        0.9, gt=0.0, le=1.0, description="schedule step: factor on the rate after every step_epochs (unitless)."
    )
    step_epochs: float = Field(
        3.0, gt=0.0, description="schedule step: epochs between factors; stretched where min_steps stretches the stage."
    )
    warmup_share: float = Field(0.1, ge=0.0, lt=1.0, description="Share of the stage's steps in which the rate rises.")
    weight_decay: float = Field(
        0.01, ge=0.0, description="AdamW's decoupled decay (per step, times the rate). Source: AdamW's default."
    )
    losses: list[LossTerm] = Field(
        min_length=1, description="Terms, each scaled to unit size before its weight. Source: DESIGN decision 2."
    )
    adapters: bool = Field(False, description="Train linear maps from student to teacher features, dropped afterwards.")
    rate_factors: dict[str, float] = Field(
        {},
        description="Parameter-name prefix -> factor on the learning rate (unitless), as for a new head.",
    )
    freeze: list[str] = Field([], description="Parameter-name prefixes that do not learn in this stage.")
    thaw_share: float = Field(
        1.0, gt=0.0, le=1.0, description="What `freeze` names learns after this share of the steps; 1: never."
    )
    rows: Rows = Field(Rows(), description="Which rows of the table; the default is all of them.")
    curriculum: list[Phase] = Field([], description="Phases in order; empty: every row alike throughout.")
    kv_heads: int | None = Field(
        None, ge=1, description="Merge key/value heads down to this many when the stage starts; null: leave."
    )
    evaluate_every: int = Field(
        0, ge=0, description="Steps between measurements on validation rows (steps); 0: before and after alone."
    )
    early_stop: EarlyStop | None = Field(None, description="Stop when validation no longer rises; null: never.")
    on_policy: OnPolicy | None = Field(None, description="Learn from texts of its own too (task text_generation).")
    min_gain: float | None = Field(
        None,
        description="A stage whose primary metric on validation rises by less is undone: the weights from before go on "
        "(metric's unit); null: it is kept whatever it does.",
    )
    layers: Layers | None = Field(
        None, description="Compare several layers; null: the student's last state with the one that is cached."
    )
    live_teacher: bool = Field(
        False, description="Run the teacher beside the student, for what is not cached (attention, every layer)."
    )
    quantize: bool = Field(
        False,
        description="Quantization-aware training: linear layers (scheme static: convolutions too) compute with weights "
        "and inputs rounded to INT8, as export.scheme will; the float weights go on. Source: arXiv 1712.05877.",
    )

    @model_validator(mode="after")
    def parts_fit_each_other(self) -> Self:
        """Refuse what waits for evaluations that never come, and a thaw of nothing."""
        weights = [term.weight.kind for term in self.losses if isinstance(term.weight, Ramp)]
        params = [value["kind"] for term in self.losses for value in term.params.values() if _has_kind(value)]
        follows = "validation" in (*weights, *params)
        if (self.early_stop or follows) and not self.evaluate_every:
            raise ValueError("evaluate_every above 0 with early_stop or a change of kind validation")
        if self.thaw_share < 1 and not self.freeze:
            raise ValueError("freeze with the names that thaw_share lets learn")
        return self


def _has_kind(value: JsonValue) -> TypeGuard[dict[str, JsonValue]]:
    return isinstance(value, dict) and "kind" in value


class TrainingSection(Section):
    """What fit and distill share."""

    batch_size: int = Field(64, ge=1, description="Rows of one optimizer step, over all workers (rows).")
    stages: list[Stage] = Field([], description="Stages in order; weights go from one to the next.")
    engine: EngineSection = Field(EngineSection(), description="How the training is driven.")

    @property
    def active(self) -> tuple[Stage, ...]:
        """The stages that are trained, in order."""
        return tuple(stage for stage in self.stages if stage.enabled)

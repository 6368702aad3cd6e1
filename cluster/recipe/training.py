"""How one network is trained: the stages it goes through and the engine that drives them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.recipe.base import NOT_IDENTITY, Section, Term


class Phase(Section):
    """A stretch of a stage's steps and the slices its rows are drawn from: the rungs of a curriculum, easy to hard."""

    share: float = Field(gt=0.0, description="Length, relative to the stage's other phases (unitless).")
    slices: dict[str, float] = Field(
        {}, description="Slice name -> sampling weight (unitless); empty: every row alike."
    )


class Stage(Section):
    """One stretch of training with its own losses, learning rate and trainable parameters."""

    name: str = Field(description="What the report calls it.")
    epochs: float = Field(gt=0.0, description="Passes over the stage's rows; fractions are allowed.")
    min_steps: int = Field(0, ge=0, description="At least this many optimizer steps, however few the rows (steps).")
    learning_rate: float = Field(gt=0.0, le=1.0, description="Peak learning rate of AdamW (per step).")
    schedule: Literal["constant", "linear", "cosine", "one_cycle"] = Field(
        "one_cycle", description="Shape of the learning rate over steps."
    )
    warmup_share: float = Field(0.1, ge=0.0, lt=1.0, description="Share of the stage's steps in which the rate rises.")
    weight_decay: float = Field(
        0.01, ge=0.0, description="AdamW's decoupled decay (per step, times the rate). Source: AdamW's default."
    )
    losses: list[Term] = Field(
        min_length=1, description="Terms, each scaled to unit size before its weight. Source: DESIGN decision 2."
    )
    adapters: bool = Field(False, description="Train linear maps from student to teacher features, dropped afterwards.")
    rate_factors: dict[str, float] = Field(
        {},
        description="Parameter-name prefix -> factor on the learning rate (unitless), as for a new head.",
    )
    freeze: list[str] = Field([], description="Parameter-name prefixes that do not learn in this stage.")
    curriculum: list[Phase] = Field([], description="Phases in order; empty: every row alike throughout.")
    kv_heads: int | None = Field(
        None, ge=1, description="Merge key/value heads down to this many when the stage starts; null: leave."
    )


class EngineSection(Section):
    """DeepSpeed and Ray Train: how many workers, in which precision, and how often they save."""

    zero_stage: int | None = Field(
        None, ge=0, le=3, description="DeepSpeed ZeRO stage; null: 0 at one worker, 1 above."
    )
    workers: int = Field(1, ge=1, description="Ray Train workers (processes).")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of forward and backward.")
    gradient_clip: float = Field(1.0, ge=0.0, description="Largest global gradient norm (L2); 0: no clipping.")
    max_failures: int = Field(
        2, ge=0, description="Worker restarts before the step fails (count).", json_schema_extra=NOT_IDENTITY
    )
    checkpoint_every: int = Field(
        200, ge=1, description="Optimizer steps between checkpoints (steps).", json_schema_extra=NOT_IDENTITY
    )
    threads: int = Field(1, ge=1, description="Torch threads of each worker (count).")

    @model_validator(mode="after")
    def bf16_needs_zero(self) -> Self:
        """Refuse bf16 without ZeRO: DeepSpeed keeps no fp32 master weights at stage 0 (findings/training.md 0.6)."""
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError("a zero_stage of 1 or more (or null) with bf16")
        return self


class TrainingSection(Section):
    """What fit and distill share."""

    batch_size: int = Field(64, ge=1, description="Rows of one optimizer step, over all workers (rows).")
    stages: list[Stage] = Field([], description="Stages in order; weights go from one to the next.")
    engine: EngineSection = Field(EngineSection(), description="How the training is driven.")

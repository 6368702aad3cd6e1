"""What drives a training: Ray Train's workers, DeepSpeed's ZeRO, memory, and when a run is given up."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.recipe.base import NOT_IDENTITY, Section


class EngineSection(Section):
    """DeepSpeed and Ray Train: how many workers, in which precision, within which memory, and how often they save."""

    zero_stage: int | None = Field(
        None, ge=0, le=3, description="DeepSpeed ZeRO stage; null: 0 at one worker, 1 above, whatever number is there."
    )
    workers: int = Field(1, ge=1, description="Ray Train workers (processes).")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Go on with as few when nodes leave, and with more when they come (count); null: always `workers`.",
        json_schema_extra=NOT_IDENTITY,
    )
    placed_on: str | None = Field(
        None,
        description="Custom Ray resource of which every worker takes one; null: CPUs (or GPUs) alone.",
        json_schema_extra=NOT_IDENTITY,
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of forward and backward.")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Rows of one forward pass of a worker, gradients are added up (rows); null: all of a step at once.",
    )
    activation_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass instead of keeping them: less memory, more time."
    )
    offload_optimizer: bool = Field(
        False, description="Optimizer state in main memory, stepped there (DeepSpeed CPUAdam, needs a C++ compiler)."
    )
    stream_from: str | None = Field(
        None,
        min_length=1,
        description="Folder or URI (s3://bucket/rows) that every worker reaches: rows are packed there and read ahead "
        "by Ray Data, for caches larger than a node's disk; the batches are the same. null: memory-mapped from the "
        "scratch folder.",
        json_schema_extra=NOT_IDENTITY,
    )
    gradient_clip: float = Field(1.0, ge=0.0, description="Largest global gradient norm (L2); 0: no clipping.")
    gradient_max: float | None = Field(
        1e6,
        gt=0.0,
        description="A gradient norm (before clipping) that stays above this ends the run as exploding; null: never.",
        json_schema_extra=NOT_IDENTITY,
    )
    gradient_min: float | None = Field(
        1e-12,
        gt=0.0,
        description="A norm that stays below this, beside a loss that is not 0, ends it as vanishing; null: never.",
        json_schema_extra=NOT_IDENTITY,
    )
    max_failures: int = Field(
        2, ge=0, description="Worker restarts before the step fails (count).", json_schema_extra=NOT_IDENTITY
    )
    checkpoint_every: int = Field(
        200, ge=1, description="Optimizer steps between checkpoints (steps).", json_schema_extra=NOT_IDENTITY
    )
    threads: int = Field(1, ge=1, description="Torch threads of each worker (count).")
    log_to: list[Literal["mlflow", "tensorboard"]] = Field(
        [],
        description="Also write the training curve there, below the store: MLflow's database, TensorBoard's files.",
        json_schema_extra=NOT_IDENTITY,
    )

    @model_validator(mode="after")
    def parts_fit(self) -> Self:
        """Refuse what DeepSpeed cannot do without ZeRO, and fewer workers at least than at most."""
        # At stage 0 bf16 has no fp32 master weights (findings/training.md 0.6), and nothing can be offloaded.
        if self.zero_stage == 0 and (self.precision == "bf16" or self.offload_optimizer):
            raise ValueError("a zero_stage of 1 or more (or null) with bf16 or offload_optimizer")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers of at most the {self.workers} workers")
        return self

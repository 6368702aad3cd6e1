"""How the teacher writes the samples and soft labels that the student learns from."""

from pydantic import Field, JsonValue

from cluster.recipe.base import NOT_IDENTITY, Section


class GenerateSection(Section):
    """Requests to the teacher: how many, which views of a row, and at which generation temperature."""

    samples: int = Field(
        0, ge=0, description="Requests to the teacher, all splits of training together (rows); 0: one per row."
    )
    batch_size: int = Field(512, ge=1, description="Rows the teacher answers at once (rows).")
    temperature: float = Field(
        0.0, ge=0.0, description="Temperature of generation, not of distillation (unitless); 0: greedy."
    )
    views: dict[str, JsonValue] = Field(
        {}, description="Augmentation, each view labelled by the teacher. Source: DESIGN decision 14."
    )
    hidden_layer: int | None = Field(
        None, description="Teacher layer stored as int8 hidden states; negative: from the end; null: none."
    )
    seed: int = Field(0, ge=0, description="Seed of requests and draws, beside the recipe's own.")
    blocks: int = Field(4, ge=1, description="Ray Data blocks, the unit that a resume skips (count).")
    concurrency: int = Field(1, ge=1, description="Teacher actors at once (count).", json_schema_extra=NOT_IDENTITY)
    cpus: float = Field(
        0.0,
        ge=0.0,
        description="Logical CPUs of one teacher actor (Ray's count); a resume needs two beside them.",
        json_schema_extra=NOT_IDENTITY,
    )

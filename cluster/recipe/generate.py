"""How the teacher writes the samples and soft labels that the student learns from."""

from typing import Any, Self

from pydantic import Field, JsonValue, model_validator

from cluster.recipe.base import NOT_IDENTITY, Section, Term
from cluster.recipe.labels import LabelsSection


class GenerateSection(Section):
    """Requests to the teacher: how many, from which templates and views of a row, at which generation temperatures."""

    samples: int = Field(
        0, ge=0, description="Requests to the teacher, all splits of training together (rows); 0: one per row."
    )
    requests: str | None = Field(
        None,
        min_length=1,
        description="Parquet file of the requests (columns of cluster.schema requests), in place of those made of the "
        "training rows; `jobs watch` writes it. null: made of the rows.",
    )
    batch_size: int = Field(512, ge=1, description="Rows the teacher answers at once (rows).")
    temperature: float = Field(
        0.0, ge=0.0, description="Temperature of generation, not of distillation (unitless); 0: greedy."
    )
    templates: dict[str, str] = Field(
        {}, description="Name -> sandboxed Jinja2 prompt over `text`, `slice` and `seed_row`; {}: the text as it is."
    )
    temperatures: list[float] = Field(
        [], description="Generation temperatures every prompt is asked at (unitless); []: `temperature` alone."
    )
    draws: int = Field(1, ge=1, description="Answers per prompt at every temperature above 0 (count).")
    rounds: int = Field(
        1, ge=1, le=10, description="Rounds that `samples` are asked in; later ones ask for what is missing (count)."
    )
    pool: float = Field(
        3.0, ge=1.0, description="Candidates that rounds choose from, over `samples` (factor); unused in one round."
    )
    views: dict[str, JsonValue] = Field(
        {}, description="Augmentation, each view labelled by the teacher. Source: DESIGN decision 14."
    )
    augment: list[Term] = Field(
        [], description="Edge noise on the requests (`jobs.data.augment`), each view a further request."
    )
    back_translate: list[str] = Field(
        [],
        description="Languages that every text is taken through and back by a teacher that writes (names); []: none.",
    )
    language: str = Field("English", min_length=1, description="Language of the texts, for back_translate.")
    labels: LabelsSection = Field(LabelsSection(), description="Form of the soft labels.")
    hidden_layer: int | None = Field(
        None, description="Teacher layer stored as int8 hidden states; negative: from the end; null: none."
    )
    hidden_layers: list[int] = Field(
        [],
        description="Several teacher layers stored as int8, 1 is the first, for stages with `layers`; []: hidden_layer "
        "alone.",
    )
    seed: int = Field(0, ge=0, description="Seed of requests and draws, beside the recipe's own.")
    attempts: int = Field(
        5, ge=1, description="Calls of a row alone before it is set aside (count).", json_schema_extra=NOT_IDENTITY
    )
    min_answered: float = Field(
        0.5, ge=0.0, le=1.0, description="The step fails when fewer requests are answered (share of rows)."
    )
    reuse: str = Field(
        "auto",
        min_length=1,
        description="Samples whose answers are taken over: auto, never, or an artifact's id (refused if it differs).",
        json_schema_extra=NOT_IDENTITY,
    )
    blocks: int = Field(4, ge=1, description="Ray Data blocks, the unit that a resume skips (count).")
    concurrency: int = Field(1, ge=1, description="Teacher actors at once (count).", json_schema_extra=NOT_IDENTITY)
    cpus: float = Field(
        0.0,
        ge=0.0,
        description="Logical CPUs of one teacher actor (Ray's count); a resume needs two beside them.",
        json_schema_extra=NOT_IDENTITY,
    )
    gpus: float = Field(
        0.0, ge=0.0, description="GPUs of one teacher actor (Ray's count); 0: CPU.", json_schema_extra=NOT_IDENTITY
    )

    @model_validator(mode="after")
    def layers_are_said_once(self) -> Self:
        """Refuse a layer named in both ways, twice, or by a number that no layer has."""
        if self.hidden_layers and self.hidden_layer is not None:
            raise ValueError("hidden_layer or hidden_layers, not both")
        if len(set(self.hidden_layers)) != len(self.hidden_layers) or 0 in self.hidden_layers:
            raise ValueError("hidden_layers: every layer once; 1 is the first, -1 the last")
        return self

    def identity(self) -> dict[str, Any]:
        """See `Section.identity`; requests made of the rows are named as they were before there was a choice."""
        whole = super().identity()
        return whole if self.requests is not None else {name: whole[name] for name in whole if name != "requests"}

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """The teacher's layers that are stored, in the order of `hidden` in the soft labels; (): none."""
        return tuple(self.hidden_layers) if self.hidden_layer is None else (self.hidden_layer,)

"""What evaluate looks at beyond the test rows: noise, groups of people, small devices, money."""

from typing import Self

from pydantic import Field, model_validator

from cluster.recipe.base import Section


class RobustnessSection(Section):
    """How the INT8 student (and the teacher, where its network is here) takes worse inputs."""

    rows: int = Field(128, ge=1, description="Test rows made worse, seeded choice (rows).")
    swaps: dict[str, str] = Field(
        {}, description="Keyword -> its counterpart, both ways (even: odd); {}: those of `generate.views.pairs`."
    )


class FairnessSection(Section):
    """A file of the same sentences with different identities in them, and which class is the good one."""

    templates: str = Field(description="Path of the rows: Parquet, CSV or JSONL. Source: the user.")
    positive: str = Field(description="The class whose probability should not depend on the identity.")
    text_column: str = Field("text", description="Column of the sentence.")
    group_column: str = Field("identity", description="Column of the identity.")
    only: dict[str, str] = Field({}, description="Keep rows with this value in this column (label_name: nontoxic).")
    rows_per_group: int = Field(100, ge=1, description="Sentences asked of each group, seeded choice (rows).")
    rows_min: int = Field(50, ge=1, description="Groups of fewer sentences are left out (rows).")


class EdgeProfile(Section):
    """A device: what of it a bundle may use."""

    cpus: int = Field(ge=1, description="Cores (count).")
    memory_bytes: int = Field(ge=1, description="Memory that one application may have (bytes).")
    file_bytes: int = Field(ge=1, description="Room for the engine file (bytes).")
    process: bool = Field(
        True, description="Whether it runs processes: then the bundle is run; false: its graph is counted only."
    )
    mobile: bool = Field(
        False, description="A phone: the graphs in ONNX Runtime's own format (.ort) are run and weighed, not the .onnx."
    )


class PricesSection(Section):
    """Prices in one currency. A machine's hour is shared by its CPUs; a teacher is paid by the hour or the answer."""

    currency: str = Field("USD", min_length=1, description="Only ever written beside numbers.")
    machine_hour: float = Field(ge=0, description="An hour of the machine that serves the student (currency). Yours.")
    machine_cpus: int = Field(1, ge=1, description="CPUs of that machine that answer at the same time (count).")
    training_hour: float | None = Field(
        None, ge=0, description="An hour of what trains (currency); null: `machine_hour`."
    )
    teacher_hour: float | None = Field(
        None, ge=0, description="An hour of the teacher's machine (currency); null: `machine_hour`."
    )
    teacher_request: float | None = Field(
        None, ge=0, description="One answer of the teacher (currency); null: by its time on its machine."
    )
    teacher_tokens_m: float | None = Field(
        None, ge=0, description="A million tokens of the teacher, read and written (currency); null: not by tokens."
    )
    tokens_per_request: float = Field(0.0, ge=0, description="Tokens read and written for one request (mean).")

    @model_validator(mode="after")
    def tokens_are_counted(self) -> Self:
        """A price by tokens needs their number, and there is one price of an answer."""
        if self.teacher_tokens_m is not None and not self.tokens_per_request:
            raise ValueError("tokens_per_request with teacher_tokens_m")
        if self.teacher_tokens_m is not None and self.teacher_request is not None:
            raise ValueError("teacher_request or teacher_tokens_m")
        return self

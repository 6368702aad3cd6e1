"""How the student answers, and when the teacher is asked instead."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section


class ServingSection(Section):
    """Address, deadlines, limits and the teacher's budget."""

    host: str = Field("127.0.0.1", description="Address to listen on.", json_schema_extra=NOT_IDENTITY)
    port: int = Field(0, ge=0, le=65535, description="TCP port; 0: a free one.", json_schema_extra=NOT_IDENTITY)
    mode: Literal["fused", "split"] = Field(
        "fused",
        description="fused: the champion in the gateway's process (no hop); split: as an application of its own.",
        json_schema_extra=NOT_IDENTITY,
    )
    student_ms: float = Field(500.0, gt=0.0, description="Then the teacher is asked (ms). Source: DESIGN decision 12.")
    total_ms: float = Field(2000.0, gt=0.0, description="Then the answer is 503 (ms). Source: DESIGN decision 12.")
    confidence_min: float = Field(
        0.0, ge=0.0, le=1.0, description="Below it the teacher is asked (probability); 0: never for that."
    )
    agreement_min: float | None = Field(
        None, gt=0.0, lt=1.0,
        description="At export a confidence is sought above which the student agrees with the teacher so often, with "
        "95 % confidence, on validation rows; below it the teacher is asked too. null: confidence_min alone.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    teacher_concurrency: int = Field(2, ge=0, description="Requests at the teacher at once (count); 0: no teacher.")
    teacher_share: float = Field(
        1.0, ge=0.0, le=1.0, description="Most of the traffic that may go to the teacher (share), hedges included.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    hedge_share: float = Field(
        0.05, ge=0.0, le=1.0, description="Most of the traffic that is hedged (share). Source: Dean, Barroso 2013.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    hedge_factor: float = Field(
        2.0, ge=1.0, description="A hedge is sent after so many running p95 of the student (times).",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    hedge_min_ms: float = Field(
        50.0, ge=0.0, description="And never sooner (ms): a fast student's p95 is no reason to pay a teacher.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    breaker_failures: int = Field(
        5, ge=1, description="Failures in a row that open a breaker (count).", json_schema_extra=NOT_IDENTITY
    )
    breaker_ms: float = Field(
        1000.0, gt=0.0, description="An open breaker lets one request try again after it (ms).",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    batch_max: int = Field(
        16, ge=1, description="Rows of one batch (count), where the bundle's answers do not depend on the batch.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    queue_max: int = Field(
        128, ge=1, description="Requests that wait in one replica (count); beyond: 429.", json_schema_extra=NOT_IDENTITY
    )
    queue_ms: float = Field(
        250.0, gt=0.0, description="Longest expected wait in it (ms); beyond: 429.", json_schema_extra=NOT_IDENTITY
    )
    keys_file: str | None = Field(
        None, description="API keys (python -m serving key NAME); null: none.", json_schema_extra=NOT_IDENTITY
    )
    per_minute: float | None = Field(
        None, gt=0.0, description="Requests a minute and key (count); null: any.", json_schema_extra=NOT_IDENTITY
    )
    megapixels_max: float = Field(
        16.0, gt=0.0, description="Of one picture as it is sent (10^6 pixels).", json_schema_extra=NOT_IDENTITY
    )
    body_mib: float = Field(
        2.0, gt=0.0, description="Of one request's body (MiB); a repeat after a replica's death has 128 KiB at most.",
        json_schema_extra=NOT_IDENTITY,
    )  # fmt: skip
    demo_requests: int = Field(
        20, ge=0, description="Test questions asked over HTTP after promote (count).", json_schema_extra=NOT_IDENTITY
    )
    replicas: int = Field(1, ge=1, description="Gateway replicas (count).", json_schema_extra=NOT_IDENTITY)

"""How the student answers, and when the teacher is asked instead."""

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section


class ServingSection(Section):
    """Address, deadlines and the teacher's budget."""

    host: str = Field("127.0.0.1", description="Address to listen on.", json_schema_extra=NOT_IDENTITY)
    port: int = Field(0, ge=0, le=65535, description="TCP port; 0: a free one.", json_schema_extra=NOT_IDENTITY)
    student_ms: float = Field(500.0, gt=0.0, description="Then the teacher is asked (ms). Source: DESIGN decision 12.")
    total_ms: float = Field(2000.0, gt=0.0, description="Then the answer is 503 (ms). Source: DESIGN decision 12.")
    confidence_min: float = Field(
        0.0, ge=0.0, le=1.0, description="Below it the teacher is asked (probability); 0: never for that."
    )
    teacher_concurrency: int = Field(2, ge=0, description="Requests at the teacher at once (count); 0: no teacher.")
    demo_requests: int = Field(
        20, ge=0, description="Test questions asked over HTTP after promote (count).", json_schema_extra=NOT_IDENTITY
    )
    replicas: int = Field(1, ge=1, description="Student replicas (count).", json_schema_extra=NOT_IDENTITY)

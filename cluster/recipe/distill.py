"""How the student learns from the teacher's samples."""

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY
from cluster.recipe.training import Stage, TrainingSection


class DistillSection(TrainingSection):
    """Training of the student, and of its control arm."""

    stages: list[Stage] = Field(min_length=1, description="Stages in order; weights go from one to the next.")
    control: bool = Field(
        True,
        description="Also train the control arm: same student and budget, true labels. Source: DESIGN decision 8.",
        json_schema_extra=NOT_IDENTITY,
    )

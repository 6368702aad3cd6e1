"""How the student learns from the teacher's samples."""

from typing import Any

from pydantic import Field, JsonValue

from cluster.recipe.base import NOT_IDENTITY
from cluster.recipe.training import Stage, TrainingSection


class DistillSection(TrainingSection):
    """Training of the student, and of its control arm."""

    stages: list[Stage] = Field(min_length=1, description="Stages in order; weights go from one to the next.")
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of the student's first weights and order of rows, so that several students share one teacher "
        "and its samples; null: the recipe's.",
    )
    continue_from: str | None = Field(
        None,
        min_length=1,
        description="MODEL@ALIAS or the name of a run: start from its student, keep its teacher, and report what is "
        "forgotten of its exam; null: a student of its own.",
    )
    replay_share: float = Field(
        0.2, ge=0.0, lt=1.0, description="Share of the rows that come from that run's samples (unitless)."
    )
    replay_except: list[dict[str, JsonValue]] = Field(
        [], description="Rows of that run which are not replayed, as `where` of generate.augment: what failed there."
    )
    control: bool = Field(
        True,
        description="Also train the control arm: same student and budget, true labels. Recipes that differ only in "
        "what the teacher adds (losses, adapters, layers, on_policy) share one. Source: DESIGN decision 8.",
        json_schema_extra=NOT_IDENTITY,
    )

    def identity(self) -> dict[str, Any]:
        """See `Section.identity`; a run that replays everything is named as it was before there was a choice."""
        whole = super().identity()
        return whole if self.replay_except else {name: whole[name] for name in whole if name != "replay_except"}

"""What every kind of noise is told beside its own strength."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section
from jobs.data.augment.where import Where


class Augmentation(Section):
    """How many views of every request, and whether the true label still holds for them."""

    views: int = Field(1, ge=1, description="views of every request (count)")
    labels: Literal["inherit", "teacher"] = Field(
        "teacher",
        description="inherit: the view keeps its row's true label; teacher: it has none but the teacher's answer. The "
        "teacher is asked about every view either way. Source: DESIGN decision 14",
    )
    where: Where | None = Field(
        None,
        description="only these rows, such as a slice that `jobs diff` names; null: every row",
        json_schema_extra=NOT_IDENTITY,  # which rows have views, not what is in them
    )

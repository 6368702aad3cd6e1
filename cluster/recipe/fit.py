"""How the teacher is fitted on the recipe's own labelled rows first."""

from typing import Self

from pydantic import Field, JsonValue, model_validator

from cluster.recipe.training import TrainingSection


class FitSection(TrainingSection):
    """Training of the teacher; off where its weights are already good."""

    enabled: bool = Field(True, description="Fit the teacher; false: take its weights as they are.")
    samples: int = Field(
        0, ge=0, description="Rows drawn for fitting, with their views (rows); 0: one per labelled row."
    )
    views: dict[str, JsonValue] = Field(
        {}, description="Augmentation applied live while fitting, checked by jobs/data/augment."
    )

    @model_validator(mode="after")
    def enabled_needs_stages(self) -> Self:
        """Refuse a fit that is on and has nothing to do."""
        if self.enabled and not self.stages:
            raise ValueError("at least one stage in fit.stages, or fit.enabled false")
        return self

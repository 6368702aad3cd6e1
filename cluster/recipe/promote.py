"""Under which name a good student is registered."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section


class PromoteSection(Section):
    """The registered model and the alias it gets."""

    model_name: str = Field(min_length=1, description="Name in the model registry.")
    alias: Literal["champion", "challenger"] = Field(
        "challenger", description="Alias asked for; the first version becomes champion."
    )
    tracking_uri: str | None = Field(
        None, description="MLflow URI; null: SQLite in the store.", json_schema_extra=NOT_IDENTITY
    )

"""Under which name a good student is registered."""

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section
from cluster.recipe.experiment import NAMED


class PromoteSection(Section):
    """The registered model and the alias it gets."""

    model_name: str = Field(min_length=1, description="Name in the model registry.")
    alias: str = Field(
        "challenger", pattern=rf"^(champion|challenger({NAMED})?)$",
        description="Alias asked for: champion, challenger, or challenger-NAME for a further arm of "
        "`experiment.others`. The first version becomes champion.",
    )  # fmt: skip
    tracking_uri: str | None = Field(
        None, description="MLflow URI; null: SQLite in the store.", json_schema_extra=NOT_IDENTITY
    )

"""Which network is the teacher and which the student."""

from pydantic import Field, JsonValue

from cluster.recipe.base import Section


class ModelSection(Section):
    """A network: its architecture by name, where its weights come from, and its sizes."""

    architecture: str = Field(description="Key in the plain dict of architectures.")
    weights: str | None = Field(
        None,
        description="A local folder, a hub id or package:NAME (weights in an installed package); null: untrained.",
    )
    params: dict[str, JsonValue] = Field(
        {}, description="Sizes and options of the architecture, checked by its own file."
    )

"""On what the recipe runs; it changes no artifact's id."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import Section


class ResourcesSection(Section):
    """CPUs of the embedded Ray, or the address of a running one."""

    cpus: int | None = Field(
        None, ge=1, description="CPUs that the embedded Ray may plan with (count); null: all of the machine."
    )
    ray_address: str | None = Field(None, description="Address of a running Ray cluster; null: an embedded one.")
    labels: dict[Literal["generate", "train", "serve"], dict[str, str]] = Field(
        {}, description="Node labels that a step's workers need (train: {accelerator: gpu}); {}: any node."
    )

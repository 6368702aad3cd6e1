"""When the traffic, or the student's quality on it, is no longer what it was."""

from pydantic import Field

from cluster.recipe.base import Section


class DriftSection(Section):
    """Windows, limits, and what an alarm does."""

    window: int = Field(
        500, ge=50, description="Judged requests behind a verdict on quality (count). Source: DESIGN decision 11."
    )
    drop: float = Field(
        0.05, gt=0.0, lt=1.0,
        description="Relative drop of quality since promotion that is an alarm (share). Source: DESIGN decision 11.",
    )  # fmt: skip
    reference: int = Field(
        500, ge=50, description="First requests of a version that later inputs are compared with (count)."
    )
    psi: float = Field(
        0.25,
        gt=0.0,
        description="Population stability index of an input that is an alarm; 0.1 to 0.25 is a shift to note.",
    )
    check_s: float = Field(10.0, gt=0.0, description="How often inputs are compared with the first requests' (s).")
    rollback: bool = Field(True, description="Serve the previous champion again when quality has dropped.")
    hard_samples: int = Field(
        256, ge=0, description="Requests named in a verdict, those on which student and teacher differ first (count)."
    )

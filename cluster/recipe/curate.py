"""Which samples are worth learning from."""

from pydantic import Field

from cluster.recipe.base import Section, Term


class CurateSection(Section):
    """Filters in order; each keeps a row or says why not."""

    filters: list[Term] = Field([], description="Filters in order; the first that refuses a row names the reason.")
    min_kept_share: float = Field(
        0.1, ge=0.0, le=1.0, description="The step fails when fewer rows are kept (share of rows)."
    )

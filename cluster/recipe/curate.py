"""Which samples are worth learning from."""

from pydantic import Field

from cluster.recipe.base import NOT_IDENTITY, Section, Term


class CurateSection(Section):
    """Filters in order; each keeps a row or says why not."""

    filters: list[Term] = Field([], description="Filters in order; the first that refuses a row names the reason.")
    min_kept_share: float = Field(
        0.1, ge=0.0, le=1.0, description="The step fails when fewer rows are kept (share of rows)."
    )
    stream_rows: int = Field(
        20_000,
        ge=1,
        description="From this many rows on, filters that judge every row by itself run in one pass of Ray Data over "
        "all workers; the verdicts are the same (rows).",
        json_schema_extra=NOT_IDENTITY,
    )
    labels: str | None = Field(
        None,
        description="A filled-in labelling sheet (`jobs sheet`), whose labels overrule the teacher's; null: none.",
        json_schema_extra=NOT_IDENTITY,  # its content is part of the identity, its place is not
    )
    audit_rows: int = Field(
        100, ge=0, description="Kept rows drawn for a person to judge, in audit.csv (rows); 0: none."
    )
    targets: dict[str, dict[str, float]] = Field(
        {},
        description="Per column of the samples the share wanted of each value; the report says how far off the kept "
        "rows are (total variation distance).",
    )

"""Which rows a recipe learns from, and how they are split."""

from typing import Literal

from pydantic import Field, JsonValue

from cluster.recipe.base import NOT_IDENTITY, Section


class DataSection(Section):
    """Where labelled rows come from and which columns hold what."""

    source: Literal["digits", "moving_digits", "python_library", "table"] = Field(
        description="digits: scikit-learn's own pictures; moving_digits: clips made of them; python_library: the "
        "source code of the installed Python's library; table: Parquet, CSV or JSONL files."
    )
    train: str | None = Field(None, description="Path of the training rows (source table). Source: the user.")
    validation: str | None = Field(
        None, description="Path of the validation rows; null: cut from train (validation_share)."
    )
    test: str | None = Field(None, description="Path of the test rows, touched once by evaluate (source table).")
    text_column: str = Field("text", description="Column of the text.")
    label_column: str = Field("label", description="Column of the label, a name or an integer.")
    label_name_column: str | None = Field(
        None, description="Column of the label's readable name; null: the label itself."
    )
    validation_share: float = Field(
        0.1, gt=0.0, lt=1.0, description="Share of train cut off for validation where none is given."
    )
    classes: list[str | int] | None = Field(None, description="Keep only the rows of these labels; null: all.")
    max_rows: int | None = Field(None, ge=1, description="Rows kept of each split, seeded choice; null: all.")
    licence: str | None = Field(
        None, description="Licence of the rows, by name; null: not known.", json_schema_extra=NOT_IDENTITY
    )
    params: dict[str, JsonValue] = Field({}, description="Knobs of the source itself, checked by its own file.")

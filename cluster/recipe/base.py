"""The ground of every recipe section: frozen, strictly typed, no unknown keys; and what of it is hashed into ids."""

from typing import Any, Self

import pydantic
from pydantic import ConfigDict, Field, JsonValue

from cluster.recipe.explain import explain

# For `Field(json_schema_extra=NOT_IDENTITY)`: the field says where or how fast, never what, so it changes no
# artifact's id.
NOT_IDENTITY: dict[str, JsonValue] = {"identity": False}


class Section(pydantic.BaseModel):
    """A part of a recipe, or of a term's `params`. Strict: "3" is no number, true is no integer, 3 is a float."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: object, *, at: str = "", source: str = "") -> Self:
        """Return the checked section.

        Raises RecipeError naming the dotted path below `at` and, where given, the file `source`.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise explain(error, cls, at=at, source=source) from None

    def identity(self) -> dict[str, Any]:
        """Return the JSON-ready content that decides ids: all fields, nested too, but those marked NOT_IDENTITY."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Term(Section):
    """A loss or a filter by name.

    `params` are checked by the frozen Section that its own file declares (`Section.parse`).
    """

    name: str = Field(description="Key in the plain dict of losses or filters.")
    weight: float = Field(1.0, ge=0.0, description="Share before normalising over the terms of its list (unitless).")
    params: dict[str, JsonValue] = Field({}, description="The term's own knobs; units are said in the term's file.")

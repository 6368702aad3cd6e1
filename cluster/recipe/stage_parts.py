"""Parts of a training stage: which rows it sees, when it ends, which layers meet, and which INT8 it trains for."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.recipe.base import Section


class Rows(Section):
    """Rows of the packed table that a stage learns from; what a bound is set on must be packed."""

    slices: list[str] = Field([], description="Only these slices of the task (names); empty: all.")
    confidence: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[least, most] of the teacher's confidence in its answer (probability); null: any.",
    )
    modalities: list[int] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[least, most] kinds of input beside the question that a row has (count); null: any.",
    )

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> Self:
        """Refuse a least above its most."""
        if any(least > most for least, most in self.bounds.values()):
            raise ValueError("[least, most] with least not above most")
        return self

    @property
    def bounds(self) -> dict[str, list[float] | list[int]]:
        """Packed column -> [least, most]."""
        named = {"confidence": self.confidence, "modalities": self.modalities}
        return {name: bounds for name, bounds in named.items() if bounds is not None}


class EarlyStop(Section):
    """Stop a stage when the primary metric on validation rows no longer rises; the best weights are kept."""

    patience: int = Field(3, ge=1, description="Evaluations in a row without a new best that end the stage (count).")
    min_delta: float = Field(0.0, ge=0.0, description="Least rise over the best that counts as one (metric's unit).")


class OnPolicy(Section):
    """A share of the steps trains on texts that the student writes then, scored by the teacher then: it learns where
    its own mistakes lead (generalised knowledge distillation, arXiv 2306.13649)."""

    share: float = Field(gt=0.0, le=1.0, description="Share lambda of the steps, drawn step by step (share).")
    max_new_tokens: int = Field(32, ge=1, description="Tokens the student writes after each row's beginning (tokens).")
    temperature: float = Field(1.0, gt=0.0, description="Temperature that it writes at, not of distillation.")


class Layers(Section):
    """Which layer of the student learns from which of the teacher's; 1 is the first layer, negative counts from the
    last.

    The teacher's layers are those of `generate.hidden_layers`, or all of a live teacher.
    """

    map: Literal["last_k", "uniform", "between", "cka", "explicit"] = Field(
        "uniform",
        description="last_k: the last of the teacher's, in order; uniform: evenly spread; between: evenly within a "
        "range; cka: the most similar, in order (arXiv 1905.00414); explicit: pairs.",
    )
    student: list[int] = Field([], description="Layers of the student (numbers); empty: all.")
    between: list[int] | None = Field(
        None, min_length=2, max_length=2, description="First and last teacher layer of map between (numbers)."
    )
    pairs: list[list[int]] = Field([], description="[student, teacher] of map explicit (layer numbers).")
    rows: int = Field(512, ge=16, description="Rows that map cka compares the layers on (rows).")
    student_heads: list[int] = Field(
        [], description="Attention heads of the student that are compared, from 0; empty: all."
    )
    teacher_heads: list[int] = Field(
        [], description="Attention heads of the teacher that are compared, from 0; empty: all."
    )

    @model_validator(mode="after")
    def the_map_has_what_it_reads(self) -> Self:
        """Refuse a range or pairs without their map, and a map without them."""
        if (self.map == "between") != (self.between is not None):
            raise ValueError("map: between together with between: [first, last]")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError("between: [first, last] with first not above last")
        if (self.map == "explicit") != bool(self.pairs) or any(len(pair) != 2 for pair in self.pairs):
            raise ValueError("map: explicit together with pairs: [[student, teacher], ...]")
        if self.pairs and self.student:
            raise ValueError("student: the pairs of map explicit name the student's layers")
        return self

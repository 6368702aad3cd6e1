"""Which rows a kind of noise is for: a slice of the requests, named by what a person can read off a row."""

from __future__ import annotations

import re
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from cluster.recipe.base import Section

WORD = re.compile(r"\w+")


class Where(Section):
    """Rows that hold all that is said; of a list, any one of its entries is enough."""

    label_name: list[str] = Field([], description="true labels (names); []: any")
    slice: list[str] = Field([], description="slices (names); []: any")
    phrases: list[str] = Field([], description="words, or words in a row, that the text holds (lower case); []: any")
    words_min: int = Field(0, ge=0, description="shortest text (words)")
    words_max: int | None = Field(None, ge=0, description="longest text (words); null: any length")

    @model_validator(mode="after")
    def says_something(self) -> Self:
        """Refuse a slice that is everything: leave `where` out instead."""
        if self == Where.model_construct():
            raise ValueError("at least one of label_name, slice, phrases, words_min, words_max")
        return self

    def rows(self, requests: pa.Table) -> np.ndarray:
        """Which rows of a request table (`cluster.schema` "requests") are meant, bool [R]."""
        kept = np.ones(len(requests), bool)
        for column, wanted in (("label_name", self.label_name), ("slice", self.slice)):
            if wanted:
                kept &= np.isin(np.array(requests[column].to_pylist(), object), wanted)
        if self.phrases or self.words_min or self.words_max is not None:
            texts = [tokens(text or "") for text in requests["prompt"].to_pylist()]
            length = np.array([len(words) for words in texts], int)
            kept &= length >= self.words_min
            kept &= length <= (length.max(initial=0) if self.words_max is None else self.words_max)
            if self.phrases:
                wanted = [f" {' '.join(tokens(phrase))} " for phrase in self.phrases]
                kept &= np.array([any(one in f" {' '.join(words)} " for one in wanted) for words in texts], bool)
        return kept


def tokens(text: str) -> list[str]:
    """The words of a text in lower case; punctuation is none."""
    return WORD.findall(text.lower())

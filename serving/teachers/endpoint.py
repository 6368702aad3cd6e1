"""Which endpoint a recipe names, and its key: read from the environment when it is used, kept and shown nowhere."""

from __future__ import annotations

import os
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from cluster.errors import InputError
from cluster.recipe.base import Section

OWN = frozenset({"model", "messages", "temperature", "seed", "logprobs", "top_logprobs", "stream", "n",
                 "max_tokens", "max_completion_tokens"})  # fmt: skip
SHOWN_CHARACTERS = 300


class OpenAIParams(Section):
    """Which endpoint and what it is asked for; the model's name there is `weights`, rates and budget are `asking`."""

    base_url: str = Field(description="address up to and with /v1, as the provider writes it")
    system: str | None = Field(None, description="system message; null: none")
    max_tokens: int = Field(512, ge=1, description="longest answer (tokens)")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls that limit"
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="alternatives per token to ask for (count); null: no log-probabilities"
    )
    send_seed: bool = Field(True, description="send each row's seed; endpoints keep to it as well as they can")
    extra: dict[str, JsonValue] = Field({}, description="further fields of the request body, such as top_p")

    @field_validator("base_url")
    @classmethod
    def plain_address(cls, value: str) -> str:
        """Refuse an address that is none, or that carries a name, a password or a query."""
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("http://HOST/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address without name, password, query or fragment; the key goes into asking.key_env")
        return value.rstrip("/")

    @model_validator(mode="after")
    def fields_are_free(self) -> Self:
        """Refuse extra fields that are set elsewhere."""
        if taken := sorted(OWN & set(self.extra)):
            raise ValueError(f"extra without {', '.join(taken)}: they are set by the other parameters")
        return self


def key_of(name: str | None) -> str | None:
    """The key in the environment variable `name`; None where the endpoint wants none.

    Raises InputError, without the value, when it is not set or cannot be sent in a header.
    """
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise InputError(
            f"the environment variable {name} is not set", expected="the key of the endpoint", hint=f"export {name}=..."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"the environment variable {name} holds no key", expected="plain characters, no spaces")
    return key


def clean(text: str, key: str | None) -> str:
    """A server's words on one line, cut, and without the key should it repeat it."""
    shown = " ".join(text.split())
    return (shown.replace(key, "[key]") if key else shown)[:SHOWN_CHARACTERS]

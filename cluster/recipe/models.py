"""Which network is the teacher and which the student; how an endpoint is asked; several teachers as one."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from cluster.recipe.base import NOT_IDENTITY, Section

ENSEMBLE = "ensemble"


class AskingSection(Section):
    """How an endpoint is asked: key, rates, retries and budget. Nothing of it changes an answer, so it names no
    artifact; rates and budgets are over all actors of a run."""

    key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the key; null: no key."
    )
    concurrency: int = Field(8, ge=1, description="Requests under way at once per actor (count).")
    requests_per_s: float | None = Field(None, gt=0, description="Rate limit (requests/s); null: none.")
    tokens_per_s: float | None = Field(None, gt=0, description="Rate limit, read and written (tokens/s); null: none.")
    timeout_s: float = Field(120.0, gt=0, description="Time of one attempt (s).")
    attempts: int = Field(6, ge=1, description="Tries per row (count).")
    backoff_s: float = Field(
        0.5, gt=0, description="The wait after try k is drawn from 0 to this times 2^k (s). Source: AWS, full jitter."
    )
    backoff_cap_s: float = Field(60.0, gt=0, description="No drawn wait is longer (s).")
    patience_s: float = Field(600.0, gt=0, description="Longest Retry-After that is waited for (s).")
    budget: float | None = Field(None, gt=0, description="Most to spend (currency of the prices); null: no limit.")
    budget_tokens: float | None = Field(None, gt=0, description="Most tokens, read and written; null: no limit.")
    price_input: float = Field(0.0, ge=0, description="Price of a million tokens read (currency).")
    price_output: float = Field(0.0, ge=0, description="Price of a million tokens written (currency).")

    @model_validator(mode="after")
    def money_needs_prices(self) -> Self:
        """Refuse a budget in money that nothing would ever be charged to."""
        if self.budget is not None and self.price_input == 0 and self.price_output == 0:
            raise ValueError("price_input and price_output with a budget in money, or budget_tokens")
        return self


class Terms(Section):
    """What the terms of a model say about its answers."""

    allows_training_on_outputs: bool | Literal["unknown"] = Field(
        "unknown",
        description="Whether its outputs may train another model; false stops promote, unknown asks the table of "
        "known terms (`jobs.before.licences`).",
    )
    source: str | None = Field(None, description="Where that is written: a document, a contract.")


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
    licence: str | None = Field(
        None, description="Licence of the weights, by name; null: not known.", json_schema_extra=NOT_IDENTITY
    )
    terms: Terms = Field(Terms(), description="What its terms allow.", json_schema_extra=NOT_IDENTITY)
    asking: AskingSection = Field(
        AskingSection(), description="How it is asked, where it is an endpoint.", json_schema_extra=NOT_IDENTITY
    )


class Member(ModelSection):
    """One teacher of several."""

    name: str = Field(min_length=1, description="What errors and reports call it.")
    weight: float = Field(1.0, gt=0, description="Share in the mean, before normalising over members (by: weight).")
    slices: list[str] = Field([], description="Slices it answers (by: slice); empty: all that no other member names.")


class EnsembleSection(Section):
    """Several teachers as one."""

    by: Literal["weight", "confidence", "slice"] = Field(
        description="weight: mean of probabilities; confidence: the surest answer; slice: one teacher per slice."
    )
    members: list[Member] = Field(min_length=2, description="The teachers; the first one's label order is kept.")

    @model_validator(mode="after")
    def members_fit(self) -> Self:
        """Refuse two members of one name, slices outside `by: slice`, and a slice that two members answer."""
        names = [member.name for member in self.members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"one member per name, not several called {', '.join(twice)}")
        slices = [one for member in self.members for one in member.slices]
        if self.by != "slice":
            if slices:
                raise ValueError("members without slices, or by: slice")
            return self
        if twice := sorted({one for one in slices if slices.count(one) > 1}):
            raise ValueError(f"one member per slice, not several for {', '.join(twice)}")
        if sum(not member.slices for member in self.members) > 1:
            raise ValueError("slices for all members but one")
        return self


class TeacherSection(ModelSection):
    """The teacher: one network or endpoint, or with architecture `ensemble` several."""

    ensemble: EnsembleSection | None = Field(None, description="The teachers of architecture ensemble.")

    @model_validator(mode="after")
    def ensemble_is_named(self) -> Self:
        """Refuse members that nobody asks, and an ensemble of none."""
        if (self.architecture == ENSEMBLE) != (self.ensemble is not None):
            raise ValueError("architecture: ensemble together with ensemble: {by, members}")
        if self.ensemble is not None and (self.weights is not None or self.params):
            raise ValueError("weights and params in the members of an ensemble")
        return self

    def identity(self) -> dict[str, Any]:
        """See `Section.identity`; a single teacher is named as it was before there were ensembles."""
        whole = super().identity()
        return whole if self.ensemble is not None else {name: whole[name] for name in whole if name != "ensemble"}


class InitSection(Section):
    """What of the fitted teacher a student starts from: {from, params}."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    start: str = Field(
        alias="from", description="Key in `jobs.training.students.STARTS` (also written `from`): teacher_layers, ..."
    )
    params: dict[str, JsonValue] = Field({}, description="The start's own knobs, checked by its own file.")


class StudentSection(ModelSection):
    """The student: weights of its own, a fresh network of `params`, or a part of the teacher."""

    init: InitSection | None = Field(None, description="What it takes of the fitted teacher; null: its answers.")

    @model_validator(mode="after")
    def one_origin(self) -> Self:
        """Refuse sizes or weights beside a start that brings both."""
        if self.init is not None and (self.weights is not None or self.params):
            raise ValueError("init without weights and params: it brings its own")
        return self

    def identity(self) -> dict[str, Any]:
        """See `Section.identity`; a student without a start is named as it was before there were any."""
        whole = super().identity()
        return whole if self.init is not None else {name: whole[name] for name in whole if name != "init"}

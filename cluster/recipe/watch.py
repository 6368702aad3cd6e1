"""When a served model is looked at again, and what happens when it got worse."""

from typing import Literal

from pydantic import Field

from cluster.recipe.base import Section

Every = Literal["never", "hourly", "daily", "weekly", "monthly", "quarterly"]


class Schedule(Section):
    """How often each kind of round is due, counted from the last one of its kind."""

    evaluate: Every = Field("daily", description="Measure the recipe's run again where its rows have changed.")
    incremental: Every = Field("weekly", description="Continue the champion on the hard requests since the last time.")
    full: Every = Field("quarterly", description="Run the whole recipe again on the data as it is then.")


class WatchSection(Section):
    """What `jobs watch` calls an alarm, and the round that follows it."""

    drop_max: float = Field(
        0.05, gt=0.0, lt=1.0, description="Relative drop that is an alarm (share). Source: DESIGN decision 11."
    )
    rows_min: int = Field(
        500, ge=1, description="Judged requests behind a verdict, at least (count). Source: DESIGN decision 11."
    )
    mined_max: int = Field(2000, ge=1, description="Requests of failing slices that a round learns from (rows).")
    held_out: float = Field(
        0.25, gt=0.0, lt=1.0, description="Share of them kept aside to see whether the round helped (share)."
    )
    old_rows: int = Field(
        20, ge=1, description="Training rows of every class that go along, so that classes stay what they are (rows)."
    )
    replay_share: float = Field(
        0.5, ge=0.0, lt=1.0, description="Share of the round's rows that are the champion's own samples (share)."
    )
    poll_s: float = Field(60.0, gt=0.0, description="How often verdicts are read without --once (s).")
    schedule: Schedule = Field(Schedule(), description="Rounds that are due without an alarm.")

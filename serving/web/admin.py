"""Admin routes: what is served, shares, the kill switch, promotion and rollback; all need a key with the role admin."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.web import forms, inputs, refusals
from serving.web.asked import Desk

SEEN = refusals.documented("unauthorized", "forbidden", "rate_limited", "conflict", "refused_bundle")
CHANGING = SEEN | refusals.documented("invalid_json", "invalid_request", "unsupported_media", "body_too_large")


class SplitRequest(BaseModel):
    """Shares of all units by arm; the champion has what is left."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    shares: dict[str, float] = Field(min_length=1, max_length=16)


class KillRequest(BaseModel):
    """An arm whose units go to the champion, at once."""

    model_config = ConfigDict(extra="forbid")

    arm: str = Field(min_length=1, max_length=64)


class PromoteRequest(BaseModel):
    """The arm that becomes champion; without a body it is the challenger."""

    model_config = ConfigDict(extra="forbid")

    arm: str = Field("challenger", min_length=1, max_length=64)


class State(BaseModel):
    """What is served now, and what each replica says it serves."""

    model_config = ConfigDict(extra="allow")

    arms: list[dict[str, Any]]
    sequence: int


def add(app: FastAPI, desk: Desk) -> None:
    """Add `/v1/admin/state`, `split`, `kill`, `promote` and `rollback`."""

    @app.get("/v1/admin/state", response_model=State, responses=SEEN)
    async def state(request: Request) -> dict[str, Any]:
        """What is served, by the control's word and by each replica's."""
        inputs.let_in(request, desk, "admin")
        return await desk.control("state")

    @app.post("/v1/admin/split", response_model=State, responses=CHANGING)
    async def split(request: Request) -> dict[str, Any]:
        """Give arms other shares; an arm that is not there yet is started first."""
        inputs.let_in(request, desk, "admin")
        body = await forms.read_json(request, SplitRequest)
        return await desk.control("split", shares=body.shares)

    @app.post("/v1/admin/kill", response_model=State, responses=CHANGING)
    async def kill(request: Request) -> dict[str, Any]:
        """Take an arm out at once; it stays out until it is given a share again."""
        inputs.let_in(request, desk, "admin")
        body = await forms.read_json(request, KillRequest)
        return await desk.control("kill", arm=body.arm)

    @app.post("/v1/admin/promote", response_model=State, responses=CHANGING)
    async def promote(request: Request) -> dict[str, Any]:
        """The challenger, or the arm that is named, becomes the champion, the champion previous; other arms stay
        without a share, for they were compared with another champion."""
        inputs.let_in(request, desk, "admin")
        body = await forms.read_json(request, PromoteRequest) if await request.body() else PromoteRequest()
        return await desk.control("promote", arm=body.arm)

    @app.post("/v1/admin/rollback", response_model=State, responses=SEEN)
    async def rollback(request: Request) -> dict[str, Any]:
        """The previous champion is champion again, alone."""
        inputs.let_in(request, desk, "admin")
        return await desk.control("rollback")

"""The gateway's HTTP routes over whatever answers behind them; every error leaves as a problem document."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response

from cluster import tracing
from serving.seams.observe import Feedback
from serving.seams.problems import ANSWERING, ASKING
from serving.web import admin, api, chat, forms, inputs, openapi, refusals
from serving.web.asked import Asked, Desk, Given

LISTS = frozenset({"images", "video"})


def create(desk: Desk) -> FastAPI:
    """The application: `/v1/predict`, `/v1/chat/completions`, `/v1/feedback`, `/v1/models`, `/v1/admin/*`, `/healthz`,
    `/readyz`, `/openapi.json`, and what the observer adds; no pages from elsewhere (CDN)."""
    app = FastAPI(title="raydistill", docs_url=None, redoc_url=None, telemetry=tracing.of_requests())
    refusals.install(app)
    app.add_middleware(refusals.BodyLimit, bytes_max=desk.body_bytes_max)
    _asking(app, desk)
    _looking(app, desk)
    chat.add(app, desk)
    admin.add(app, desk)

    async def known(request: Request) -> None:
        inputs.who(request, desk)  # not counted: the page looks every two seconds, and would use up its key's rate

    added = desk.observer.router(known)
    if added is not None:
        app.include_router(added)
    app.openapi = lambda: openapi.of(app, desk)  # type: ignore[method-assign]
    return app


def _asking(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/predict", response_model=api.PredictResponse, response_model_exclude_unset=True,
        responses=refusals.documented(*ANSWERING),
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        """Answer one question, classify one text or picture, or rank the entries for one query."""
        started = time.perf_counter()
        inputs.let_in(request, desk)
        body = await forms.read_either(request, api.PredictRequest, LISTS)
        item = body.item()
        inputs.look(item, desk)
        number = inputs.request_id(request)
        asked = Asked(number, body.unit or number, item, delay_ms=inputs.delay_ms(request, desk))
        response = _response(await desk.answer(asked), desk, number, started)
        # As FastAPI would write it, but it would check a second time what was made here.
        return Response(response.model_dump_json(exclude_unset=True), media_type=forms.JSON)

    @app.post(
        "/v1/feedback", status_code=202, response_model=api.FeedbackResponse, responses=refusals.documented(*ASKING)
    )
    async def feedback(request: Request) -> api.FeedbackResponse:
        """Say what came of an answer. Sent twice (or repeated by the proxy) it counts once."""
        inputs.let_in(request, desk)
        body = await forms.read_json(request, api.FeedbackRequest)
        desk.feedback(Feedback(body.request_id, time.time_ns() // 1_000_000, body.reward, body.label))
        return api.FeedbackResponse(request_id=body.request_id)


def _looking(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models", response_model=api.Models, response_model_exclude_none=True,
             responses=refusals.documented("unauthorized", "rate_limited"))  # fmt: skip
    async def models(request: Request) -> dict[str, Any]:
        """The models that can answer, the champion first."""
        inputs.let_in(request, desk)
        return {"data": desk.models()}

    @app.get("/healthz", response_model=api.Status, responses=refusals.documented())
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=api.Status, responses=refusals.documented())
    async def readyz() -> dict[str, str]:
        """The student is loaded and has answered once; before that no request is let in."""
        return {"status": "ready"}


def _response(given: Given, desk: Desk, number: str, started: float) -> api.PredictResponse:
    answer = given.answer
    more: dict[str, Any] = {}
    if answer.probabilities is not None:
        more = {"label": answer.text, "probabilities": answer.probabilities}
        if desk.task == "retrieval":
            more["ranking"] = [api.Ranked(id=name, score=score) for name, score in answer.probabilities.items()]
    return api.PredictResponse(
        request_id=number, text=answer.text, confidence=min(answer.confidence, 1.0), **more,
        model=given.model, version=given.version, arm=given.arm, fell_back=given.fell_back, reason=given.reason,
        latency_ms=round((time.perf_counter() - started) * 1000, 3),
    )  # fmt: skip

"""The page's routes: `/ui` with its two files, open to all, and `/ui/state`, the JSON document behind it.

That one asks for a client key where keys exist: models, traffic and decisions are for those who may ask the models.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cluster.errors import RaydistillError
from serving.seams.observe import LetIn

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
KINDS = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
# Nothing from elsewhere, and no script within the page: what a model answers is text and stays text.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:"


def router(state: Callable[[], Awaitable[dict[str, Any]]], known: LetIn) -> Any:
    """A `fastapi.APIRouter`; `state` gives what the page shows, or raises RaydistillError; `known` raises for who may
    not see it."""
    from fastapi import APIRouter, Depends
    from fastapi.responses import JSONResponse, Response

    made = APIRouter(include_in_schema=False)

    def file(name: str) -> Response:
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache", "x-content-type-options": "nosniff"}
        return Response((HERE / name).read_bytes(), media_type=KINDS[name], headers=headers)

    @made.get("/ui")
    async def page() -> Response:
        """The live page."""
        return file("page.html")

    @made.get("/ui/page.js")
    async def script() -> Response:
        """Its script."""
        return file("page.js")

    @made.get("/ui/page.css")
    async def style() -> Response:
        """Its style."""
        return file("page.css")

    @made.get("/ui/state", dependencies=[Depends(known)])
    async def shown() -> JSONResponse:
        """What it shows; 503 while the monitor is on its way up."""
        try:
            return JSONResponse(await state(), headers={"cache-control": "no-store"})
        except RaydistillError as error:
            log.warning("no state to show: %s", error)
            return JSONResponse({"unready": str(error)}, 503)

    return made

"""The live page in a real browser: it shows a real monitor's state on a desk and on a phone, and loads nothing else."""

import asyncio
import html
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from serving.page.routes import router
from serving.seams.observe import CHAMPION, Feedback
from serving.web import auth, inputs, refusals

# Does something to the page `d` in a frame of some width, a while after it is loaded.
FRAME = """<!doctype html><iframe id=f src=/ui width=%d height=4000 style=border:0></iframe>
<script>setTimeout(() => { const d = f.contentDocument; with (document) { %s } }, %d)</script>"""
HOSTILE = "<img src=x onerror=document.title=1>"


@pytest.fixture
def state(live: Callable[..., Any]) -> dict[str, Any]:
    """What the monitor says after an experiment that is under way, with feedback and a ramp behind it."""

    async def scenario(world: Any) -> dict[str, Any]:
        for _ in range(15):
            await world.second(60)
        for number in range(40):
            world.gateways[0].feedback(Feedback(f"r{number}", 7, 1.0, "right"))
        await world.second(60, outcome="teacher", fell_back=True, reason="low_confidence")
        return dict(await world.monitor.state())

    knobs = {"ramp": [0.1, 0.5], "price_per_hour": 0.4, "teacher_price_per_1000": 0.9, "promote": "never"}
    return dict(live(scenario, {CHAMPION: 0.96, "challenger": 0.97}, **knobs))


CLIENT, CLIENT_KEY = auth.draw("shop", "client")
ADDED, ADDED_KEY = auth.draw("till", "client")
READ = "title = d.getElementById('status').textContent"


@pytest.fixture
def keys() -> list[auth.Key]:
    """None: the service is open."""
    return []


class Door:
    """What of a desk `inputs.who` needs."""

    def __init__(self, keys: list[auth.Key]) -> None:
        self.keys = auth.Keys(keys)


@pytest.fixture
def page(state: dict[str, Any], keys: list[auth.Key]) -> Iterator[str]:
    """The page over HTTP, with a predict route that answers what it is asked; both want a key where there are any."""
    app, door = FastAPI(), Door(keys)
    refusals.install(app)

    async def found() -> dict[str, Any]:
        return state

    async def known(request: Request) -> None:
        inputs.who(request, door)  # type: ignore[arg-type]

    @app.post("/v1/predict", dependencies=[Depends(known)])
    async def predict(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"text": f"{body['text']}{HOSTILE}", "confidence": 0.5, "latency_ms": 3.0, "arm": "champion",
                "model": "m", "version": "1", "fell_back": False, "reason": None, "request_id": "r1"}  # fmt: skip

    @app.get("/frame/{width}")
    async def frame(width: int) -> HTMLResponse:
        return HTMLResponse(FRAME % (width, "title = d.documentElement.scrollWidth + ' wide'", 3000))

    @app.get("/asked")
    async def asked() -> HTMLResponse:
        ask = "d.getElementById('text').value = 'seven'; d.querySelector('#try button').click()"
        read = "title = d.getElementById('answer').textContent"
        return HTMLResponse(FRAME % (1000, f"{ask}; setTimeout(() => {{ document.{read} }}, 1000)", 1500))

    @app.get("/entered/{key}")
    async def entered(key: str) -> HTMLResponse:
        before = "const was = [d.getElementById('status').textContent, d.getElementById('entry').hidden]"
        enter = f"d.getElementById('key').value = '{key}'; d.querySelector('#enter button').click()"
        ask = "d.getElementById('text').value = 'seven'; d.querySelector('#try button').click()"
        ids = "['status', 'model', 'arms', 'answer']"
        read = f"title = JSON.stringify([was, {ids}.map((id) => d.getElementById(id).textContent)])"
        return HTMLResponse(
            FRAME % (1000, f"{before}; {enter}; {ask}; setTimeout(() => {{ document.{read} }}, 1000)", 1500)
        )

    @app.get("/added")
    async def added() -> None:
        door.keys = auth.Keys([*keys, ADDED_KEY])

    @app.get("/late")
    async def late() -> HTMLResponse:
        enter = "d.querySelector('#enter button').click()"
        again = f"fetch('/added').then(() => {{ {enter}; setTimeout(() => {{ document.{READ} }}, 800) }})"
        typed = f"d.getElementById('key').value = '{ADDED}'; {enter}"
        return HTMLResponse(FRAME % (1000, f"{typed}; setTimeout(() => {{ {again} }}, 500)", 1200))

    app.include_router(router(found, known))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/ui"
    server.should_exit = True
    thread.join(10)


def test_the_page_shows_arms_split_agreement_cost_experiments_and_decisions(
    page: str, browse: Callable[..., str]
) -> None:
    dom = browse(page, 1280, "--dump-dom")
    shown = re.sub(r"<[^>]+>", " ", dom)
    for words in ("champion, version 1", "challenger, version 2", "agrees with the teacher", "at all times with 95 %",
                  "of the teacher's", "at the end of its ramp", "not worse", "ramp by canary", "deferred",
                  "live,"):  # fmt: skip
        assert words in re.sub(r"\s+", " ", shown), words
    assert 'data-ready="yes"' in dom


@pytest.mark.parametrize("keys", [[CLIENT_KEY]], ids=["keyed"])
@pytest.mark.parametrize("key", [CLIENT, "wrong"], ids=["right", "wrong"])
def test_where_there_are_keys_the_page_asks_for_one_and_shows_nothing_without(
    page: str, browse: Callable[..., str], key: str
) -> None:
    assert httpx.get(f"{page}/state", trust_env=False).json()["code"] == "unauthorized"
    assert httpx.get(f"{page}/state", headers={"x-api-key": CLIENT}, trust_env=False).status_code == 200
    dom = browse(page.replace("/ui", f"/entered/{key}"), 1400, "--dump-dom")
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found, dom[:500]
    before, (status, model, arms, answer) = json.loads(html.unescape(found.group(1)))
    assert before == ["an API key is needed", False]
    if key == CLIENT:
        assert status.startswith("live,") and model == "m" and "champion, version 1" in arms
        assert answer.startswith("seven<img")
    else:
        assert (status, model, arms) == ("this key is not known here", "…", "")
        assert "got no key that is known here" in answer


@pytest.mark.parametrize("keys", [[CLIENT_KEY]], ids=["keyed"])
def test_a_key_that_is_added_after_it_was_refused_is_let_in(page: str, browse: Callable[..., str]) -> None:
    dom = browse(page.replace("/ui", "/late"), 1400, "--dump-dom")
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found and found.group(1).startswith("live,"), dom[:500]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: str, browse: Callable[..., str], width: int) -> None:
    """Asked within a frame of that width: a headless window is never narrower than 500."""
    dom = browse(page.replace("/ui", f"/frame/{width}"), 1400, "--dump-dom")
    found = re.search(r"<title>(\d+) wide</title>", dom)
    assert found, dom[:500]
    assert int(found.group(1)) <= width


@pytest.mark.slow
def test_the_box_asks_the_service_and_what_a_model_says_stays_text(page: str, browse: Callable[..., str]) -> None:
    dom = browse(page.replace("/ui", "/asked"), 1400, "--dump-dom")
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert found, dom[:500]
    assert found.group(1).startswith("seven&lt;img src=x onerror=document.title=1&gt;confidence50.0 %")


def test_the_page_loads_nothing_from_elsewhere_and_forbids_it(page: str) -> None:
    for path, kind in (("", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answered = httpx.get(page + path, trust_env=False)
        assert answered.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answered.headers["content-security-policy"]
        assert re.findall(r"(?:https?:)?//[\w.]+\.\w+", answered.text) == []
        assert "innerHTML" not in answered.text


def test_while_the_monitor_is_away_the_state_is_503() -> None:
    from fastapi.testclient import TestClient

    from cluster.errors import RaydistillError

    async def away() -> dict[str, Any]:
        raise RaydistillError("on its way up")

    app = FastAPI()

    async def known() -> None:
        pass

    app.include_router(router(away, known))
    answered = TestClient(app).get("/ui/state")
    assert (answered.status_code, answered.json()) == (503, {"unready": "on its way up"})

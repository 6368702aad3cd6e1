"""A bundle behind another server, for comparison: `bare_server.py KIND BUNDLE PORT`, KIND is one of SERVERS.

`fastapi` is what one would write without us: uvicorn, FastAPI, pydantic in and out, the model in one thread. `litserve`
and `bentoml` run where these are installed (a virtual environment of their own; their pins fight ours), each with its
own batching. All answer with the bundle's own `predict.py`, the very graph and threads that the gateway serves.
"""

import asyncio
import base64
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def item_of(body: dict[str, Any]) -> dict[str, Any]:
    return {"text": body["text"], "images": [base64.b64decode(image) for image in body["images"]]}


def run_fastapi(bundle: str, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from serving.bundle import predict

    model, thread, app = predict.load(bundle), ThreadPoolExecutor(1), FastAPI()

    class Body(BaseModel):
        text: str
        images: list[str] = []

    class Reply(BaseModel):
        text: str
        confidence: float

    @app.post("/v1/predict", response_model=Reply)
    async def ask(body: Body) -> Reply:
        loop = asyncio.get_running_loop()
        (found,) = await loop.run_in_executor(thread, model.predict, [item_of(body.model_dump())])
        return Reply(text=found.text, confidence=found.confidence)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def run_litserve(bundle: str, port: int) -> None:
    """LitServe starts workers that import the API by name, so the bundle travels in the environment."""
    import litserve  # type: ignore[import-not-found]
    from lit_api import Api  # type: ignore[import-not-found]

    os.environ["BARE_SERVER_BUNDLE"] = bundle
    api = Api(max_batch_size=16, batch_timeout=0.0, api_path="/v1/predict")
    litserve.LitServer(api, accelerator="cpu").run(
        host="127.0.0.1", port=port, log_level="error", generate_client_file=False
    )


def run_bentoml(bundle: str, port: int) -> None:
    """BentoML does, too."""
    os.environ["BARE_SERVER_BUNDLE"] = bundle
    here = Path(__file__)
    command = [sys.executable, "-m", "bentoml", "serve", "bento_service:Service", "--working-dir", str(here.parent)]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])


SERVERS = {"fastapi": run_fastapi, "litserve": run_litserve, "bentoml": run_bentoml}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))

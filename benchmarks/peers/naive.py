"""The server that a tutorial would have you write: FastAPI over diffusers' pipeline, one lock, one picture a call.

It is not crippled: the pipeline is `DiffusersCall` (same weights, dtype, format, threads and JPEG encoder as
ours), it runs off the event loop on one thread that lives on (torch keeps a pool of its own for each thread
that calls it), the lock is fair, and uvicorn runs on uvloop and httptools.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel

from benchmarks.options import ModelOptions

if TYPE_CHECKING:
    from benchmarks.peers.diffusers_call import DiffusersCall


class Ask(BaseModel):
    prompt: str


def create_app(call: DiffusersCall) -> FastAPI:
    app = FastAPI()
    lock = asyncio.Lock()
    device = ThreadPoolExecutor(1)

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/generate")
    async def generate(ask: Ask) -> Response:
        async with lock:
            loop = asyncio.get_running_loop()
            (picture,) = await loop.run_in_executor(device, call.draw, [ask.prompt])
        return Response(picture, media_type="image/jpeg")

    device.submit(call.warm_up, (1,), lambda n: ["warming up"] * n).result()
    return app


def main() -> None:
    from benchmarks.peers.diffusers_call import DiffusersCall

    port, options = int(sys.argv[1]), ModelOptions(**json.loads(sys.argv[2]))
    app = create_app(DiffusersCall(options))
    # Nobody waits for what an open-loop crowd has left behind.
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()

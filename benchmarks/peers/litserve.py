"""LitServe over diffusers' call, with the dynamic batching that its documentation recommends.

`max_batch_size` is ours. `batch_timeout` is 5 ms: with 0 its worker polls its queue without a pause and takes a
core from the very model that it serves, and a longer one only adds to every picture's age.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litserve
from fastapi.responses import Response

from benchmarks.options import ModelOptions
from benchmarks.peers.diffusers_call import DiffusersCall

BATCH_TIMEOUT = 0.005


class Api(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, options: ModelOptions) -> None:
        super().__init__(max_batch_size=options.max_batch, batch_timeout=BATCH_TIMEOUT, api_path="/generate")
        self._options = options

    def setup(self, device: str) -> None:
        self.call = DiffusersCall(self._options)
        self.call.warm_up(range(1, self._options.max_batch + 1), lambda n: ["warming up"] * n)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["prompt"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, prompts: list[str]) -> list[bytes]:
        return self.call.draw(prompts)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Any:
        return Response(output, media_type="image/jpeg")


def main() -> None:
    port, options = int(sys.argv[1]), ModelOptions(**json.loads(sys.argv[2]))
    server = litserve.LitServer(
        Api(options), accelerator="cpu" if options.device == "auto" else options.device
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

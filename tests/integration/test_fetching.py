"""A model on a hub is fetched, with the environment's token, and served; the log says all of it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.fake_hub import COMMIT, TOKEN, serving_hub
from tests.pipelines.tiny_models import save_tiny_sd
from tests.servers import Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ID = "somebody/tiny"


def test_a_gated_model_is_fetched_served_and_talked_about(tmp_path: Path) -> None:
    save_tiny_sd(tmp_path / "model", "sd15")
    with serving_hub() as hub:
        hub.repositories[ID] = tmp_path / "model"
        hub.gated.add(ID)
        server = Server(
            *("--model", f"{ID}@{COMMIT}", "--device", "cpu", "--threads", "1", "--max-batch", "2"),
            double=False,
            env={"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
        )
        try:
            url = f"{server.until_ready(within=500).url}/v1/generate"
            answer = httpx.get(url, params={"prompt": "a cat", "steps": 2}, timeout=60)
        finally:
            log = server.stop()
    assert answer.status_code == 200, answer.text
    assert f"source={ID}@{COMMIT}" in log
    assert f"downloading {ID}: 100% of" in log
    assert "its PNDMScheduler is not served; DDIM is served in its place" in log

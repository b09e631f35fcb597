"""The Ray application's own decisions, without a cluster; `make trial-ray` runs the whole on one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

pytest.importorskip("ray.serve")

from ray.serve.exceptions import DeploymentUnavailableError

import onestroke.ray as on_ray
from onestroke.metrics import Metrics
from onestroke.ray import Replicas, Server, app, grow, load, share_of
from onestroke.settings import Settings
from tests.doubles import FAKE_ENGINE


class Others:
    """A handle whose replicas answer `answer`, or fail with it."""

    def __init__(self) -> None:
        self.answer: list[Any] | Exception = []

    def broadcast(self, method: str) -> Others:
        return self

    async def results_async(self, **_: Any) -> list[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def unavailable() -> Exception:
    return DeploymentUnavailableError.__new__(DeploymentUnavailableError)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    others = Others()
    me = SimpleNamespace(replica_tag="me", deployment="onestroke", app_name="onestroke")
    monkeypatch.setattr(on_ray.serve, "get_replica_context", lambda: me)
    monkeypatch.setattr(on_ray.serve, "get_deployment_handle", lambda *_: others)
    monkeypatch.setattr(on_ray, "HEALTH_PERIOD", 0.001)
    monkeypatch.setattr(on_ray, "SILENCE", 0.0)
    return others


@pytest.fixture
def server(others: Others) -> Server:
    return Server(Settings().model_dump(), FAKE_ENGINE)


# -- how many --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "wanted"),
    [
        ({}, 0),
        ({"a": 0.0, "b": 0.0}, 0),
        ({"a": 0.2}, 1),
        ({"a": 1.0}, 1),
        ({"a": 1.1}, 2),
        ({"a": 2, "b": 3}, 5),
    ],
)
def test_there_are_as_many_replicas_as_the_load_of_all_fills(loads: dict[str, float], wanted: int) -> None:
    assert grow(SimpleNamespace(aggregated_metrics={"load": loads})) == (wanted, {})  # type: ignore[arg-type]


def test_nothing_is_wanted_before_a_replica_has_spoken() -> None:
    assert grow(SimpleNamespace(aggregated_metrics=None)) == (0, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("promised", "sockets", "full"),
    [(0, 0, 0.0), (0, 40, 0.5), (8, 0, 0.5), (16, 79, 1.0), (17, 0, 1.0625), (0, 100, 1.25)],
)
def test_pictures_weigh_and_sockets_only_near_their_limit(promised: int, sockets: int, full: float) -> None:
    context: Any = SimpleNamespace(
        scheduler=SimpleNamespace(accepted=promised), metrics=SimpleNamespace(open_sessions=sockets)
    )
    assert load(context, Settings(max_batch=8, max_sessions=100)) == pytest.approx(full)


@pytest.mark.parametrize(
    ("settings", "cluster", "share", "room"),
    [
        ({}, {"CPU": 8.0}, {"num_cpus": 2}, 4),
        ({"threads": 3}, {"CPU": 8.0}, {"num_cpus": 3}, 2),
        ({}, {"CPU": 64.0, "GPU": 8.0}, {"num_gpus": 1, "num_cpus": 1}, 8),
        ({"device": "cuda:0,cuda:1"}, {"CPU": 64.0, "GPU": 8.0}, {"num_gpus": 2, "num_cpus": 1}, 4),
        ({"device": "cpu"}, {"CPU": 64.0, "GPU": 8.0}, {"num_cpus": 2}, 32),
        ({"device": "cuda"}, {"CPU": 64.0}, {"num_gpus": 1, "num_cpus": 1}, 0),
    ],
)
def test_a_replica_takes_a_gpu_or_some_cores(
    settings: dict[str, Any], cluster: dict[str, float], share: dict[str, float], room: int
) -> None:
    assert share_of(Settings(**settings), cluster) == (share, room)


def test_the_application_has_the_environments_settings_and_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONESTROKE_MAX_BATCH", "4")
    monkeypatch.setattr(on_ray, "resources", lambda: {"CPU": 8.0})
    deployment = app({"min_replicas": "2", "max_replicas": "3"})._bound_deployment
    settings, _ = deployment.init_args
    assert (settings["max_batch"], settings["threads"]) == (4, 2)
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 3)
    with pytest.raises(ValidationError, match="max_replica"):
        Replicas.model_validate({"max_replica": "3"})


# -- leaving ---------------------------------------------------------------------------------------------------


async def test_a_replica_that_ray_no_longer_lists_drains_and_no_other(others: Others, server: Server) -> None:
    drained = asyncio.Event()

    async def drain() -> None:
        drained.set()

    context: Any = SimpleNamespace(scheduler=SimpleNamespace(accepted=0, drained=drain))
    leaving = asyncio.create_task(server._leave_when_dismissed(context))
    gone = RuntimeError("its process is gone")
    for answer in (["other"], unavailable(), ["me", "other"], TimeoutError(), ["other", gone], ["me"]):
        others.answer = answer
        await asyncio.sleep(0.02)
        assert not drained.is_set(), answer
    others.answer = ["other"]
    await asyncio.wait_for(leaving, 5)
    assert drained.is_set()


async def test_the_last_replica_drains_when_its_application_is_gone(others: Others, server: Server) -> None:
    drained = asyncio.Event()

    async def drain() -> None:
        drained.set()

    context: Any = SimpleNamespace(scheduler=SimpleNamespace(accepted=0, drained=drain))
    leaving = asyncio.create_task(server._leave_when_dismissed(context))
    others.answer = ["me"]
    await asyncio.sleep(0.02)
    others.answer = unavailable()
    await asyncio.wait_for(leaving, 5)
    assert drained.is_set()


async def test_as_long_as_ray_asks_after_its_health_a_replica_asks_nothing(
    others: Others, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    others.answer = ["me"]
    leaving = asyncio.create_task(server._leave_when_dismissed(SimpleNamespace()))  # type: ignore[arg-type]
    await asyncio.sleep(0.02)
    monkeypatch.setattr(on_ray, "SILENCE", 60.0)
    await server.check_health()
    others.answer = ["other"]
    await asyncio.sleep(0.02)
    assert not leaving.done()
    leaving.cancel()


# -- behind the proxy ------------------------------------------------------------------------------------------


@pytest.fixture
def built(server: Server) -> FastAPI:
    return server.__serve_build_asgi_app__()


def client(built: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://127.0.0.1:8000")


async def test_metrics_are_those_of_every_replica_that_answers(others: Others, built: FastAPI) -> None:
    alive, dead = [(name, list(Metrics().registry.collect())) for name in "ab"], RuntimeError("died")
    others.answer = [*alive, dead]
    async with client(built) as prometheus:
        answer = await prometheus.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'onestroke_ready{replica="a"} 0.0' in answer.text
    assert 'onestroke_ready{replica="b"} 0.0' in answer.text


async def test_metrics_of_a_part_are_not_taken_for_the_whole(others: Others, built: FastAPI) -> None:
    others.answer = TimeoutError()
    async with client(built) as prometheus:
        assert (await prometheus.get("/metrics")).status_code == 503


async def test_no_replica_is_drained_through_the_proxy(built: FastAPI) -> None:
    async with client(built) as operator:
        answer = await operator.post("/admin/drain")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"

"""Death, hanging, draining and callers that go away, with real processes and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import struct
import time
from typing import Any

import httpx
import pytest
import websockets

from onestroke.models.catalog import EMBEDDED_FOLDER
from tests.servers import Server, serving

pytestmark = pytest.mark.integration


async def picture(socket: Any) -> dict[str, Any]:
    """The header of the next picture."""
    while isinstance(message := await asyncio.wait_for(socket.recv(), 30), str):
        pass
    (length,) = struct.unpack_from(">I", message)
    header: dict[str, Any] = json.loads(message[4 : 4 + length])
    return header


async def hello(server: Server, **kw: Any) -> Any:
    socket = await websockets.connect(server.socket_url, **kw)
    await socket.send(json.dumps({"type": "hello"}))
    return socket


async def key(socket: Any, seq: int, prompt: str) -> None:
    await socket.send(json.dumps({"type": "generate", "seq": seq, "prompt": prompt}))


async def call(client: httpx.AsyncClient, prompt: str) -> int:
    return (await client.get("/v1/generate", params={"prompt": prompt})).status_code


async def test_kill_9_in_mid_pass_every_request_is_answered_and_sockets_stay_up() -> None:
    with serving() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            socket = await hello(server)
            calls = [asyncio.create_task(call(client, f"slow {i}")) for i in range(12)]
            await key(socket, 0, "slow key")
            await asyncio.sleep(0.6)
            os.kill(server.worker_pid, signal.SIGKILL)
            went = False
            for _ in range(200):
                went |= (await client.get("/readyz")).status_code == 503
                if went:
                    break
                await asyncio.sleep(0.01)
            assert went, "readiness goes"
            statuses = await asyncio.gather(*calls)
            assert set(statuses) <= {200, 503}
            assert statuses.count(200) >= 1
            assert (await picture(socket))["seq"] == 0
            await key(socket, 1, "after")
            assert (await picture(socket))["seq"] == 1
            assert (await client.get("/readyz")).status_code == 200, "readiness comes back"
            await socket.close()


async def test_the_request_that_kills_its_worker_fails_and_the_next_is_drawn() -> None:
    with serving() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            statuses = await asyncio.gather(
                call(client, "a fox"), call(client, "crash"), call(client, "a hen")
            )
            assert statuses == [200, 503, 200]
            assert await call(client, "afterwards") == 200


async def test_a_device_that_is_lost_ends_its_worker_and_another_draws() -> None:
    with serving() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            before = server.worker_pid
            statuses = await asyncio.gather(
                call(client, "a fox"), call(client, "lost"), call(client, "a hen")
            )
            assert statuses == [200, 503, 200]
            assert await call(client, "boom") == 500, "an error of another kind fails its request alone"
            assert server.worker_pid != before
            metrics = (await client.get("/metrics")).text
            assert 'onestroke_worker_restarts_total{reason="device lost"} 2.0' in metrics


async def test_a_hanging_worker_is_replaced() -> None:
    with serving("--request-timeout", "12") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            hung = asyncio.create_task(call(client, "hang"))
            await asyncio.sleep(0.2)
            behind = asyncio.create_task(call(client, "behind"))
            assert await hung in (503, 504)
            assert await behind == 200


async def test_a_frozen_and_thawed_server_goes_on_with_the_same_worker() -> None:
    with serving() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            worker = server.worker_pid
            drawing = asyncio.create_task(call(client, "slow fox"))
            await asyncio.sleep(0.1)
            for signal_ in (signal.SIGSTOP, signal.SIGCONT):
                for pid in (worker, server.process.pid):
                    os.kill(pid, signal_)
                await asyncio.sleep(6.0 if signal_ is signal.SIGSTOP else 0.0)
            assert await drawing == 200
            assert server.worker_pid == worker


async def test_sigterm_finishes_what_was_accepted_and_tells_the_sockets() -> None:
    server = Server(double=True).until_ready()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        socket = await hello(server)
        await key(socket, 0, "slow key")
        calls = [asyncio.create_task(call(client, f"slow {i}")) for i in range(6)]
        await asyncio.sleep(0.3)
        server.terminate()
        assert await asyncio.gather(*calls) == [200] * 6
        heard = []
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in socket:
                heard.append(message)
        assert socket.close_code == 1012
        assert '{"type":"draining"}' in heard
        assert any(isinstance(message, bytes) for message in heard), "the key was drawn"
    server.stop()


async def test_a_drained_server_refuses_what_is_new_finishes_what_it_has_and_leaves() -> None:
    server = Server("--host", "0.0.0.0", double=True).until_ready()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        through_a_proxy = await client.post("/admin/drain", headers={"X-Forwarded-For": "127.0.0.1"})
        assert through_a_proxy.status_code == 403
        assert (await client.get("/readyz")).status_code == 200
        last = asyncio.create_task(call(client, "slow fox"))
        await asyncio.sleep(0.1)
        drained = await client.post("/admin/drain")
        assert (drained.status_code, drained.json()["draining"]) == (202, True)
        assert (await client.get("/readyz")).status_code == 503
        await asyncio.sleep(0.15)
        refused = await client.get("/v1/generate", params={"prompt": "a hen"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        with pytest.raises(websockets.InvalidStatus) as unopened:
            await websockets.connect(server.socket_url)
        assert unopened.value.response.status_code == 503
        assert await last == 200
    server.rest_of_log()
    assert server.process.returncode == 0


async def test_the_key_drains_from_anywhere() -> None:
    with serving(env={"ONESTROKE_API_KEY": "secret"}) as server:
        forwarded = {"X-Forwarded-For": "10.0.0.1"}
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.post("/admin/drain", headers=forwarded)).status_code == 401
            keyed = {**forwarded, "Authorization": "Bearer secret"}
            assert (await client.post("/admin/drain", headers=keyed)).status_code == 202


async def test_a_caller_who_goes_away_cancels_its_work(double_server: Server) -> None:
    async with httpx.AsyncClient(base_url=double_server.url, timeout=0.2) as client:
        gone = await asyncio.gather(*(call(client, f"slow {i}") for i in range(40)), return_exceptions=True)
    assert all(isinstance(each, httpx.TimeoutException) for each in gone)
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=double_server.url, timeout=30) as client:
        assert await call(client, "a fox") == 200
    assert time.monotonic() - began < 10, "forty slow pictures are not drawn first"


async def test_a_foreign_origin_is_refused_at_the_socket(double_server: Server) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(double_server.socket_url, origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


async def test_too_many_sessions_are_refused() -> None:
    with serving("--max-sessions", "1") as server:
        first = await hello(server)
        second = await websockets.connect(server.socket_url)
        with pytest.raises(websockets.ConnectionClosed) as refused:
            await asyncio.wait_for(second.recv(), 10)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1013
        await first.close()


async def test_a_backlog_that_is_too_long_is_refused_with_retry_after() -> None:
    with serving("--max-backlog", "2", "--max-batch", "1") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            answers = await asyncio.gather(
                *(client.get("/v1/generate", params={"prompt": f"slow {i}"}) for i in range(12))
            )
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert int(refused[0].headers["retry-after"]) >= 1
            assert refused[0].json()["error"]["code"] == "overloaded"
            assert {answer.status_code for answer in answers} == {200, 429}


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_reason(tmp_path: Any) -> None:
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "broken")
    server = Server("--model", str(folder), double=True)
    assert server.process.wait(timeout=60) == 1
    assert "the weights are cut short" in server.rest_of_log()


async def pids(client: httpx.AsyncClient, count: int) -> list[int]:
    """The workers' processes, once there are `count`."""
    for _ in range(600):
        workers = (await client.get("/readyz")).json()["workers"]
        if len(workers) == count:
            return [worker["pid"] for worker in workers]
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {count} workers")


async def test_with_two_devices_one_worker_dies_and_the_other_goes_on() -> None:
    with serving("--device", "cpu,cpu") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            first = await pids(client, 2)
            calls = [asyncio.create_task(call(client, f"slow {i}")) for i in range(12)]
            await asyncio.sleep(0.6)
            os.kill(first[0], signal.SIGKILL)
            ready = []
            while not all(each.done() for each in calls):
                ready.append((await client.get("/readyz")).status_code)
                await asyncio.sleep(0.01)
            assert set(ready) == {200}, "the other worker goes on"
            assert [await each for each in calls] == [200] * 12
            assert first[0] not in await pids(client, 2)

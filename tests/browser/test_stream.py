"""onestroke.js through its public interface, in a real browser, against a fake fake."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fake_server import FakeServer

pytestmark = pytest.mark.browser

START = """async (options) => {
  const { OnestrokeStream } = await import("/static/onestroke.js");
  window.events = [];
  window.stream = new OnestrokeStream(location.origin, { retryBase: 40, retryCap: 200, ...options });
  for (const type of ["state", "status", "ready", "image", "kept", "superseded", "failed", "draining"]) {
    stream.addEventListener(type, ({ detail }) => events.push({ type, ...detail }));
  }
  stream.connect();
}"""


class Stream:
    """A stream in the browser, and what it has told."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def start(self, **options: Any) -> Stream:
        self.page.evaluate(START, options)
        return self

    def do(self, script: str) -> Any:
        return self.page.evaluate(script)

    def events(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(
            "(kind) => events.filter((e) => e.type === kind)", kind
        )
        return found

    def wait_for(self, condition: str) -> None:
        """`condition` is JavaScript, with `of(kind)` for the events of a kind."""
        of = "const of = (kind) => events.filter((e) => e.type === kind);"
        self.page.wait_for_function(f"() => {{ {of} return {condition}; }}")

    def wait_for_state(self, state: str, times: int = 1) -> None:
        self.wait_for(f"of('state').filter((e) => e.state === '{state}').length >= {times}")


@pytest.fixture
def stream(open_page: Callable[..., Any]) -> Stream:
    return Stream(open_page("blank"))


def until(condition: Callable[[], bool], seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_key_comes_back_as_a_picture_with_its_latency(stream: Stream) -> None:
    stream.start().wait_for_state("ready")
    seq = stream.do("() => stream.type('red apple', { seed: 7 })")
    stream.wait_for("of('image').length === 1")
    [picture] = stream.events("image")
    assert (picture["seq"], picture["prompt"], picture["seed"]) == (seq, "red apple", 7)
    assert picture["latest"]
    assert 0 < picture["latency"] < 5000


def test_keys_of_one_frame_are_sent_as_their_first_and_their_last(stream: Stream, fake: FakeServer) -> None:
    stream.start().wait_for_state("ready")
    stream.do("() => { for (const text of ['c', 'ca', 'cat', 'cat ', 'cat s']) stream.type(text); }")
    stream.wait_for("of('image').some((e) => e.prompt === 'cat s')")
    assert [message["prompt"] for message in fake.generates()] == ["c", "cat s"]


def test_what_was_typed_before_the_server_was_ready_is_sent_once_it_is(
    stream: Stream, fake: FakeServer
) -> None:
    fake.behave(warmup=(("loading", 0.3), ("warming up", 0.9)))
    stream.start()
    stream.do("() => { stream.type('one'); stream.type('two'); }")
    stream.wait_for("of('image').length === 1")
    assert [status["fraction"] for status in stream.events("status")] == [0.3, 0.9]
    assert [message["prompt"] for message in fake.generates()] == ["two"]


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
def test_a_broken_socket_is_replaced_and_the_latest_words_are_sent_again(
    stream: Stream, fake: FakeServer, code: int
) -> None:
    fake.behave(delay=30)
    stream.start().wait_for_state("ready")
    seq = stream.do("() => { stream.type('old'); return stream.type('new'); }")
    until(lambda: [message["prompt"] for message in fake.generates()] == ["old", "new"])
    fake.behave(delay=0)
    fake.close_sockets(code)
    stream.wait_for("of('image').length === 1")
    [picture] = stream.events("image")
    assert (picture["seq"], picture["prompt"]) == (seq, "new")


def test_a_picture_that_has_come_is_not_asked_for_again(stream: Stream, fake: FakeServer) -> None:
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('image').length === 1")
    fake.close_sockets(1012)
    stream.wait_for_state("ready", times=2)
    time.sleep(0.1)
    assert len(fake.generates()) == 1


def test_it_comes_back_after_the_server_was_away(stream: Stream, fake: FakeServer, console: Any) -> None:
    console.tolerant = True  # the browser itself reports each refused connection
    stream.start().wait_for_state("ready")
    fake.stop()
    stream.wait_for_state("waiting", times=3)
    stream.do("() => stream.type('typed meanwhile')")
    fake.start()
    stream.wait_for("of('image').some((e) => e.prompt === 'typed meanwhile')")
    waits = [e["retryInMs"] for e in stream.events("state") if e["state"] == "waiting"]
    longest = [min(200, 40 * 2**attempt) for attempt in range(len(waits))]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, longest, strict=True))


def test_the_server_s_seed_stays_over_a_reconnect(stream: Stream, fake: FakeServer) -> None:
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('image').length === 1")
    fake.close_sockets(1012)
    stream.wait_for_state("ready", times=2)
    stream.do("() => stream.type('cats')")
    stream.wait_for("of('image').length === 2")
    first, second = fake.generates()
    assert "seed" not in first
    assert second["seed"] == stream.events("image")[0]["seed"]


def test_pictures_never_go_backwards(stream: Stream, fake: FakeServer) -> None:
    fake.behave(delay=30)
    stream.start().wait_for_state("ready")
    stream.do("() => { for (const text of 'abc') stream.type(text); }")
    for seq in (2, 1, 2, 3):
        fake.send_picture(seq=seq, prompt=f"picture {seq}")
    stream.wait_for("of('image').some((e) => e.seq === 3)")
    assert [picture["seq"] for picture in stream.events("image")] == [2, 3]


def test_a_blank_prompt_is_not_sent_but_cancels(stream: Stream, fake: FakeServer) -> None:
    fake.behave(delay=0.2)
    stream.start().wait_for_state("ready")
    seq = stream.do("() => stream.type('cat')")
    assert stream.do("() => stream.type('  ')") is None
    until(lambda: {"type": "cancel", "seq": seq} in fake.received)
    time.sleep(0.3)
    assert stream.events("image") == []
    assert len(fake.generates()) == 1


def test_a_silent_socket_is_given_up(stream: Stream, fake: FakeServer) -> None:
    fake.behave(mute_pings=True)
    stream.start(pingEvery=60, pongWithin=120)
    stream.wait_for_state("waiting")
    assert "silent" in next(e for e in stream.events("state") if e["state"] == "waiting")["reason"]


def test_a_server_that_never_gets_ready_nor_says_so_is_given_up(stream: Stream, fake: FakeServer) -> None:
    fake.behave(silent=True)
    stream.start(pongWithin=120)
    stream.wait_for_state("waiting")


def test_pings_keep_a_quiet_socket_open(stream: Stream, fake: FakeServer) -> None:
    stream.start(pingEvery=40, pongWithin=400).wait_for_state("ready")
    until(lambda: sum(message["type"] == "ping" for message in fake.received) >= 5)
    assert stream.do("() => stream.state") == "ready"


def test_a_page_that_is_looked_at_again_checks_its_socket_at_once(stream: Stream, fake: FakeServer) -> None:
    stream.start(pongWithin=150).wait_for_state("ready")
    fake.behave(mute_pings=True)
    stream.do("() => document.dispatchEvent(new Event('visibilitychange'))")
    stream.wait_for_state("waiting")


def test_a_network_that_is_back_ends_the_wait(stream: Stream, fake: FakeServer) -> None:
    stream.start(retryBase=60_000, retryCap=60_000).wait_for_state("ready")
    fake.close_sockets(1012)
    stream.wait_for_state("waiting")
    stream.do("() => dispatchEvent(new Event('online'))")
    stream.wait_for_state("ready", times=2)


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x00\x00\x00\xff{}", b"\x00\x00\x00\x02}{rest"])
def test_a_broken_picture_is_reported_and_the_next_one_shown(
    stream: Stream, fake: FakeServer, data: bytes
) -> None:
    stream.start().wait_for_state("ready")
    fake.send_bytes(data)
    stream.wait_for("of('failed').length === 1")
    assert stream.events("failed")[0]["code"] == "protocol_error"
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('image').length === 1")


def test_an_error_carries_code_message_and_field(stream: Stream, fake: FakeServer) -> None:
    error = {"code": "invalid_request", "message": "Too many steps.", "field": "steps"}
    fake.behave(errors=[error])
    stream.start().wait_for_state("ready")
    seq = stream.do("() => stream.type('cat', { steps: 99 })")
    stream.wait_for("of('failed').length === 1")
    [failure] = stream.events("failed")
    assert failure | {"seq": seq, "retrying": False, **error} == failure
    assert stream.do("() => stream.lagging") is False


def test_an_overloaded_server_is_asked_again_when_it_says(stream: Stream, fake: FakeServer) -> None:
    busy = {"code": "overloaded", "message": "Busy.", "retry_after_ms": 80}
    fake.behave(errors=[busy, busy])
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('image').length === 1")
    sequence = [message["seq"] for message in fake.generates()]
    assert sequence == sorted(set(sequence))
    assert len(sequence) == 3
    assert all(failure["retrying"] for failure in stream.events("failed"))


def test_it_does_not_ask_an_overloaded_server_for_ever(stream: Stream, fake: FakeServer) -> None:
    fake.behave(errors=[{"code": "overloaded", "message": "Busy.", "retry_after_ms": 1}] * 50)
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('failed').some((e) => !e.retrying)")
    assert len(fake.generates()) == 6


def test_a_refusal_ends_it_until_connect_is_called(stream: Stream, fake: FakeServer) -> None:
    fake.behave(refuse_with=1008)
    stream.start().wait_for_state("closed")
    [failure] = stream.events("failed")
    assert (failure["code"], failure["message"], failure["fatal"]) == ("refused", "not here", True)
    fake.behave(refuse_with=None)
    stream.do("() => stream.connect()")
    stream.wait_for_state("ready")


def test_a_draining_server_may_finish_and_then_is_left(stream: Stream, fake: FakeServer) -> None:
    fake.behave(delay=0.2)
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    until(lambda: len(fake.generates()) == 1)
    fake.say({"type": "draining"})
    stream.wait_for_state("ready", times=2)
    kinds = [e["type"] for e in stream.do("() => events") if e["type"] in ("draining", "image")]
    assert kinds == ["draining", "image"]
    assert len(fake.generates()) == 1


def test_keys_typed_while_it_drains_go_to_the_next_server(stream: Stream, fake: FakeServer) -> None:
    fake.behave(delay=30)
    stream.start().wait_for_state("ready")
    stream.do("() => stream.type('cat')")
    until(lambda: len(fake.generates()) == 1)
    fake.behave(delay=0)
    fake.say({"type": "draining"})
    stream.wait_for("of('draining').length === 1")
    stream.do("() => stream.type('cats')")
    stream.wait_for("of('image').some((e) => e.prompt === 'cats')")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_meanwhile_the_last_words_are_drawn(
    stream: Stream, fake: FakeServer, seed: int
) -> None:
    chance = random.Random(seed)
    stream.start().wait_for_state("ready")
    busy = {"code": "overloaded", "message": "Busy.", "retry_after_ms": 30}
    text = ""
    for letter in "whatever happens the last words win":
        text += letter
        stream.do(f"() => {{ stream.type({json.dumps(text)}); }}")
        match chance.randrange(6):
            case 0:
                fake.close_sockets(chance.choice([1001, 1011, 1012, 1013]))
            case 1:
                fake.say({"type": "draining"})
            case 2:
                fake.behave(errors=[busy], delay=chance.random() / 5)
            case 3:
                fake.send_bytes(b"rubbish")
    stream.wait_for(f"of('image').at(-1)?.prompt === {json.dumps(text)}")
    sequence = [picture["seq"] for picture in stream.events("image")]
    assert sequence == sorted(set(sequence))
    assert stream.do("() => stream.lagging") is False


def test_another_format_greets_again(stream: Stream, fake: FakeServer) -> None:
    stream.start(format="png").wait_for_state("ready")
    stream.do("() => { stream.format = 'webp'; stream.type('cat'); }")
    stream.wait_for("of('image').length === 1")
    hellos = [message["format"] for message in fake.received if message["type"] == "hello"]
    assert hellos == ["png", "webp"]
    assert stream.events("image")[0]["header"]["content_type"] == "image/webp"


# Pictures to type over

KEEP = """async ([id, size]) => {
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext("2d").fillRect(0, 0, size, size);
  stream.keep(id, await canvas.convertToBlob());
}"""


def keep(stream: Stream, name: str, size: int = 8) -> None:
    stream.page.evaluate(KEEP, [name, size])


def exchanged(fake: FakeServer) -> list[tuple[str, Any]]:
    """What came of pictures and words, in order."""
    return [
        (message["type"], message.get("id") or message["prompt"])
        for message in list(fake.received)
        if message["type"] in ("image", "forget", "generate")
    ]


def test_a_picture_is_sent_once_and_typed_over(stream: Stream, fake: FakeServer) -> None:
    stream.start()
    keep(stream, "sketch")  # before it is ready
    stream.wait_for("of('kept').length === 1")
    assert stream.events("kept")[0] == {"type": "kept", "id": "sketch", "width": 8, "height": 8}
    control = {"image": "lines", "scale": 0.7}
    over = {"image": "sketch", "strength": 0.6, "control": control, "adapters": [{"name": "ink"}]}
    stream.do(f"() => stream.type('cat', {json.dumps(over)})")
    stream.wait_for("of('image').length === 1")
    stream.do("() => stream.type('cats', { image: 'sketch' })")
    stream.wait_for("of('image').length === 2")
    keep(stream, "sketch", 16)
    stream.wait_for("of('kept').at(-1)?.width === 16")
    stream.do("() => { stream.forget('sketch'); stream.forget('never kept'); }")
    until(lambda: ("forget", "sketch") in exchanged(fake))
    assert exchanged(fake) == [
        ("image", "sketch"),
        ("generate", "cat"),
        ("generate", "cats"),
        ("image", "sketch"),
        ("forget", "sketch"),
    ]
    assert fake.generates()[0] | over == fake.generates()[0]


def test_on_the_next_socket_kept_pictures_go_before_the_words(stream: Stream, fake: FakeServer) -> None:
    fake.behave(delay=30)
    stream.start().wait_for_state("ready")
    keep(stream, "sketch")
    keep(stream, "forgotten")
    stream.do("() => { stream.forget('forgotten'); stream.type('cat', { image: 'sketch' }); }")
    until(lambda: len(fake.generates()) == 1)
    fake.behave(delay=0)
    fake.received.clear()
    fake.close_sockets(1012)
    stream.wait_for("of('image').length === 1")
    assert exchanged(fake) == [("image", "sketch"), ("generate", "cat")]


def test_a_picture_that_is_refused_fails_by_its_id_and_is_not_sent_again(
    stream: Stream, fake: FakeServer
) -> None:
    refused = {"code": "invalid_request", "message": "image is broken", "field": "image"}
    busy = {"code": "overloaded", "message": "Busy.", "retry_after_ms": 1}
    fake.behave(errors=[refused, busy])
    stream.start().wait_for_state("ready")
    keep(stream, "broken")
    stream.wait_for("of('failed').length === 1")
    keep(stream, "later")
    stream.wait_for("of('failed').length === 2")
    first, second = stream.events("failed")
    assert first | {**refused, "id": "broken", "retrying": False} == first
    assert second | {"id": "later", "retrying": True} == second
    stream.do("() => stream.type('cat')")
    stream.wait_for("of('image').length === 1")
    sent = [("image", "broken"), ("image", "later"), ("image", "later"), ("generate", "cat")]
    assert exchanged(fake) == sent


def test_close_is_final(stream: Stream, fake: FakeServer) -> None:
    stream.start(token="secret").wait_for_state("ready")
    assert fake.received[0]["token"] == "secret"
    stream.do("() => stream.close()")
    until(lambda: not fake.sessions)
    time.sleep(0.2)
    assert stream.do("() => stream.state") == "closed"
    assert not fake.sessions


def test_rest_draws_a_picture_and_lists_the_models(stream: Stream) -> None:
    answer = stream.do(
        """async () => {
          const { generate, listModels } = await import("/static/onestroke.js");
          const { blob } = await generate("red apple", { seed: 7, format: "png" });
          const { width } = await createImageBitmap(blob);
          return { type: blob.type, width, models: (await listModels()).map((model) => model.id) };
        }"""
    )
    assert answer == {"type": "image/png", "width": 512, "models": ["embedded"]}


def test_rest_failures_carry_the_server_s_words(stream: Stream, console: Any) -> None:
    console.tolerant = True  # the browser itself reports a 4xx
    error = stream.do(
        """async () => {
          const { generate } = await import("/static/onestroke.js");
          return generate("").catch(({ name, code, message, field }) => ({ name, code, message, field }));
        }"""
    )
    assert error == {
        "name": "OnestrokeError",
        "code": "invalid_request",
        "message": "The prompt is empty.",
        "field": "prompt",
    }

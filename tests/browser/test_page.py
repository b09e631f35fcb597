"""The page, as somebody sees, types on and listens to it, against a fake server."""

from __future__ import annotations

import io
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from tests.browser.fake_server import MODEL, FakeServer, colour, draw
from tests.browser.test_stream import until

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Any]

PICTURE = "#picture"
PROMPT = "#prompt"

# Read from a copy: the browser warns of a canvas that is drawn fast and read as well.
MIDDLE = """(canvas) => {
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -256, -256);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def shows(page: Any, prompt: str) -> None:
    """Waits for the canvas to show the picture of `prompt`."""
    page.wait_for_function(
        "(prompt) => document.getElementById('picture').dataset.prompt === prompt", arg=prompt
    )


def type_words(page: Any, text: str, delay: float = 10) -> None:
    page.locator(PROMPT).press_sequentially(text, delay=delay)


def connected(page: Any) -> Any:
    page.wait_for_selector('#connection[data-state="ready"]')
    return page


def is_kept(page: Any, count: int) -> None:
    page.wait_for_function("(count) => document.querySelectorAll('#strip li').length === count", arg=count)


def pixel(page: Any) -> tuple[int, ...]:
    """The colour in the middle of the canvas."""
    return tuple(page.locator(PICTURE).evaluate(MIDDLE))


def close_to(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """JPEG moves a flat colour by a step or two."""
    return all(abs(a - b) <= 4 for a, b in zip(one, other, strict=True))


def hash_of(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


# The picture follows the keys


def test_the_picture_follows_the_keys(page: Any, fake: FakeServer) -> None:
    type_words(page, "red apple", delay=40)
    shows(page, "red apple")
    drawn = fake.generates()
    assert len(drawn) >= 5
    assert [message["seq"] for message in drawn] == sorted({message["seq"] for message in drawn})
    assert close_to(pixel(page), colour("red apple", drawn[-1]["seed"]))


def test_a_picture_that_is_out_of_date_never_replaces_a_newer_one(page: Any, fake: FakeServer) -> None:
    fake.behave(delay=30)
    type_words(page, "cats")
    last = fake.generates()[-1]["seq"]
    fake.send_picture(seq=last, prompt="cats", seed=1)
    shows(page, "cats")
    fake.send_picture(seq=last - 1, prompt="cat", seed=1)
    time.sleep(0.2)
    assert page.locator(PICTURE).get_attribute("data-prompt") == "cats"
    assert page.locator(PICTURE).get_attribute("data-seq") == str(last)


def test_a_burst_of_pictures_ends_on_the_newest(page: Any, fake: FakeServer) -> None:
    fake.behave(delay=30)
    type_words(page, "a")
    for seq in range(10, 40):
        fake.send_picture(seq=seq, prompt=f"picture {seq}", seed=seq)
    shows(page, "picture 39")


def test_the_stroke_is_wet_while_the_picture_lags(page: Any, fake: FakeServer) -> None:
    type_words(page, "red")
    shows(page, "red")
    page.wait_for_selector("#stroke:not([data-wet])", state="attached")
    fake.behave(delay=0.6)
    type_words(page, " apple")
    page.wait_for_selector("#stroke[data-wet]", state="attached")
    assert page.locator("#mount").get_attribute("data-lagging") is not None
    shows(page, "red apple")
    page.wait_for_selector("#stroke:not([data-wet])", state="attached")
    assert page.locator("#mount").get_attribute("data-lagging") is None


def test_a_slow_server_still_ends_on_the_whole_words(page: Any, fake: FakeServer) -> None:
    fake.behave(delay=0.4)
    type_words(page, "a small house by the sea", delay=20)
    shows(page, "a small house by the sea")
    assert page.locator(PICTURE).get_attribute("data-seq") == str(fake.generates()[-1]["seq"])


def test_a_picture_that_stands_too_long_pales_and_the_next_one_does_not(page: Any, fake: FakeServer) -> None:
    type_words(page, "red")
    is_kept(page, 1)
    time.sleep(0.5)
    assert page.locator("#mount").get_attribute("data-stale") is None
    fake.behave(delay=1.8)
    type_words(page, " apple", delay=0)
    page.wait_for_selector("#mount[data-stale]")
    shows(page, "red apple")
    assert page.locator("#mount").get_attribute("data-stale") is None


def test_latency_and_rate_are_shown(page: Any) -> None:
    assert page.locator("#latency").inner_text() == "–"
    for prompt in ("a rocket", "a rocket at", "a rocket at night"):  # a rate is of three pictures or more
        page.locator(PROMPT).fill(prompt)
        shows(page, prompt)
    assert 0 < float(page.locator("#latency").inner_text()) < 5000
    assert float(page.locator("#rate").inner_text()) > 0
    assert 0 < page.locator("#ticks rect").count() <= 20


# Clearing


def test_escape_clears_the_words_the_picture_and_what_is_on_its_way(page: Any, fake: FakeServer) -> None:
    type_words(page, "cat")
    shows(page, "cat")
    fake.behave(delay=0.3)
    type_words(page, "s")
    page.keyboard.press("Escape")
    assert page.locator(PROMPT).input_value() == ""
    assert page.locator(PICTURE).get_attribute("data-seq") is None
    page.locator("#enso").wait_for()
    time.sleep(0.5)
    assert page.locator(PICTURE).get_attribute("data-seq") is None
    assert {"type": "cancel", "seq": fake.generates()[-1]["seq"]} in fake.received


def test_blanks_are_not_sent(page: Any, fake: FakeServer) -> None:
    type_words(page, "   ")
    page.locator("#examples").wait_for()
    assert fake.generates() == []


def test_pasted_lines_become_one(page: Any) -> None:
    page.locator(PROMPT).fill("a cat\n  on a mat\r\n")
    assert page.locator(PROMPT).input_value() == "a cat on a mat "


def test_an_example_writes_itself_key_by_key(page: Any, fake: FakeServer) -> None:
    page.get_by_role("button", name="red apple on a blue background").click()
    shows(page, "red apple on a blue background")
    assert len(fake.generates()) > 5
    assert not page.locator("#examples").is_visible()


def test_an_example_stops_when_somebody_types(page: Any) -> None:
    page.get_by_role("button", name="red apple on a blue background").click()
    page.wait_for_function("() => document.getElementById('prompt').value.length > 3")
    page.keyboard.press("Escape")
    type_words(page, "cat")
    time.sleep(0.3)
    assert page.locator(PROMPT).input_value() == "cat"


def test_an_example_comes_at_once_where_motion_is_unwanted(open_page: OpenPage, fake: FakeServer) -> None:
    page = connected(open_page(reduced_motion="reduce"))
    page.get_by_role("button", name="red apple on a blue background").click()
    shows(page, "red apple on a blue background")
    assert len(fake.generates()) == 1


# Seed, steps, format, size


def test_a_locked_seed_stays_and_an_open_one_changes_with_every_key(page: Any, fake: FakeServer) -> None:
    type_words(page, "cat", delay=40)
    shows(page, "cat")
    assert len({message["seed"] for message in fake.generates()}) == 1
    lock = page.get_by_role("button", name="Keep this seed")
    assert lock.get_attribute("aria-pressed") == "true"
    lock.click()
    assert lock.get_attribute("aria-pressed") == "false"
    fake.received.clear()
    type_words(page, " on a mat", delay=40)
    shows(page, "cat on a mat")
    drawn = fake.generates()
    assert len({message["seed"] for message in drawn}) == len(drawn)


@pytest.mark.parametrize("how", ["dice", "enter"])
def test_another_take_is_a_new_seed_and_the_last_one_is_kept(page: Any, fake: FakeServer, how: str) -> None:
    type_words(page, "cat")
    shows(page, "cat")
    before = page.locator("#seed").input_value()
    if how == "dice":
        page.get_by_role("button", name="Another take").click()
    else:
        page.keyboard.press("Enter")
    page.wait_for_function("(seed) => document.getElementById('picture').dataset.seed !== seed", arg=before)
    assert page.locator("#seed").input_value() == page.locator(PICTURE).get_attribute("data-seed") != before
    is_kept(page, 2)
    assert page.locator(PROMPT).input_value() == "cat"


def test_a_written_seed_is_used_and_a_wrong_one_explained(page: Any, fake: FakeServer) -> None:
    type_words(page, "cat")
    shows(page, "cat")
    seed = page.get_by_label("Seed", exact=True)
    seed.fill("123456789")
    page.wait_for_selector(f'{PICTURE}[data-seed="123456789"]')
    seed.fill("12x")
    assert seed.get_attribute("aria-invalid") == "true"
    assert "whole number" in page.locator("#notice").inner_text()
    seed.fill("9007199254740992")
    assert seed.get_attribute("aria-invalid") == "true"
    seed.blur()
    assert seed.input_value() == "123456789"
    assert page.locator("#notice").inner_text() == ""


def test_steps_go_up_to_the_model_s_and_are_sent(page: Any, fake: FakeServer) -> None:
    steps = page.get_by_label("Steps")
    assert (steps.get_attribute("max"), steps.input_value()) == ("8", "1")
    type_words(page, "cat")
    steps.fill("4")
    page.wait_for_function("() => document.getElementById('steps-value').value === '4'")
    page.wait_for_function("() => location.hash.includes('steps=4')")
    assert fake.generates()[-1]["steps"] == 4


def test_chosen_steps_outlive_a_reconnect(page: Any, fake: FakeServer) -> None:
    page.get_by_label("Steps").fill("4")
    fake.close_sockets(1012)
    page.wait_for_selector('#connection:not([data-state="ready"])')
    connected(page)
    assert page.get_by_label("Steps").input_value() == "4"


def test_size_is_offered_where_the_model_has_several(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(model=fake.behaviour.model | {"sizes": [[512, 512], [768, 512]]})
    page = connected(open_page())
    type_words(page, "cat")
    page.get_by_label("Size").select_option(index=1)
    page.wait_for_function("() => document.getElementById('picture').width === 768")
    assert (fake.generates()[-1]["width"], fake.generates()[-1]["height"]) == (768, 512)


def test_size_is_left_out_where_there_is_one(page: Any, fake: FakeServer) -> None:
    assert not page.locator("#size-field").is_visible()
    type_words(page, "cat")
    shows(page, "cat")
    assert "width" not in fake.generates()[-1]


OTHER = {**MODEL, "name": "other", "description": "Another model", "default_steps": 4, "max_steps": 50}


def test_a_model_is_chosen_where_there_are_several(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(others=(OTHER,))
    page = connected(open_page())
    type_words(page, "cat")
    shows(page, "cat")
    assert fake.generates()[-1]["model"] == "embedded"
    page.get_by_label("Model").select_option("other")
    page.wait_for_function("() => document.getElementById('steps').value === '4'")
    assert page.locator("#model strong").inner_text() == "other"
    is_kept(page, 1)
    drawn = fake.generates()[-1]
    assert (drawn["model"], drawn["steps"], drawn["prompt"]) == ("other", 4, "cat")
    page.wait_for_function("() => location.hash.includes('model=other')")
    again = connected(open_page("#" + urlsplit(page.url).fragment))
    shows(again, "cat")
    assert again.get_by_label("Model").input_value() == "other"
    assert fake.generates()[-1]["model"] == "other"


def test_one_model_leaves_nothing_to_choose(page: Any, fake: FakeServer) -> None:
    assert not page.locator("#model-field").is_visible()
    type_words(page, "cat")
    shows(page, "cat")
    assert "model" not in fake.generates()[-1]


def test_another_format_is_asked_for_and_drawn_again(page: Any) -> None:
    type_words(page, "cat")
    shows(page, "cat")
    page.get_by_label("Format").select_option("png")
    page.wait_for_function("() => document.getElementById('download').download.endsWith('.png')")


# The strip


def test_only_a_pause_keeps_a_picture(page: Any) -> None:
    type_words(page, "red apple", delay=40)
    assert page.locator("#strip li").count() == 0
    is_kept(page, 1)


def test_a_kept_picture_comes_back_with_its_words_and_seed(page: Any, fake: FakeServer) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    seed, before = page.locator("#seed").input_value(), pixel(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Another take").click()
    type_words(page, "dog")
    is_kept(page, 2)
    drawn = len(fake.generates())
    page.get_by_role("button", name="Bring back cat").click()
    shows(page, "cat")
    assert page.locator(PROMPT).input_value() == "cat"
    assert page.locator("#seed").input_value() == seed
    assert pixel(page) == before
    assert hash_of(page)["prompt"] == "cat"
    assert len(fake.generates()) == drawn, "the picture is there: nothing is to be drawn"
    assert page.locator("#strip [aria-current]").count() == 1


def test_a_picture_on_its_way_does_not_cover_one_that_was_brought_back(page: Any, fake: FakeServer) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    fake.behave(delay=0.3)
    type_words(page, "s")
    page.get_by_role("button", name="Bring back cat").click()
    time.sleep(0.6)
    assert page.locator(PICTURE).get_attribute("data-prompt") == "cat"


def test_the_same_picture_is_kept_once_and_only_twelve_are(page: Any) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    for _ in range(13):
        seed = page.locator(PICTURE).get_attribute("data-seed")
        page.keyboard.press("Enter")
        page.wait_for_function("(seed) => document.getElementById('picture').dataset.seed !== seed", arg=seed)
    time.sleep(0.8)
    assert page.locator("#strip li").count() == 12
    page.locator("#strip li").last.get_by_role("button").click()
    time.sleep(0.8)
    assert page.locator("#strip li").count() == 12


def test_arrows_walk_the_strip_with_one_tab_stop(page: Any) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    for count in (2, 3):
        page.keyboard.press("Enter")
        is_kept(page, count)
    buttons = page.locator("#strip button")
    assert [button.get_attribute("tabindex") for button in buttons.all()].count("0") == 1
    buttons.first.focus()
    for key, index in [
        ("ArrowDown", 1),
        ("ArrowRight", 2),
        ("ArrowRight", 2),
        ("Home", 0),
        ("End", 2),
        ("ArrowUp", 1),
    ]:
        page.keyboard.press(key)
        assert buttons.nth(index).evaluate("(button) => button === document.activeElement"), key
    page.keyboard.press("Enter")
    page.wait_for_selector("#strip li:nth-child(2) [aria-current]")


# To take away


def test_download_saves_the_bytes_on_show(page: Any, tmp_path: Path) -> None:
    assert page.locator("#download").get_attribute("aria-disabled") == "true"
    type_words(page, "Red apple, please!")
    shows(page, "Red apple, please!")
    seed = page.locator("#seed").input_value()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == f"red-apple-please-{seed}.jpg"
    waiting.value.save_as(tmp_path / "picture")
    assert (tmp_path / "picture").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize("key", ["Control+s", "Meta+s"])
def test_ctrl_s_downloads(page: Any, key: str) -> None:
    type_words(page, "cat")
    shows(page, "cat")
    with page.expect_download() as waiting:
        page.keyboard.press(key)
    assert waiting.value.suggested_filename.startswith("cat-")


def test_the_copied_link_and_curl_draw_the_same_picture(open_page: OpenPage, fake: FakeServer) -> None:
    page = connected(open_page(permissions=["clipboard-read", "clipboard-write"]))
    type_words(page, "it's a cat & a dog")
    shows(page, "it's a cat & a dog")
    seed = page.locator("#seed").input_value()
    read = "() => navigator.clipboard.readText()"
    page.get_by_role("button", name="Copy image link").click()
    page.wait_for_selector("#copy-link[data-done]")
    link = page.evaluate(read)
    page.get_by_role("button", name="Copy as curl").click()
    page.wait_for_selector("#copy-curl[data-done]")
    curl = shlex.split(page.evaluate(read))
    assert parse_qs(urlsplit(link).query) == {
        "prompt": ["it's a cat & a dog"],
        "model": ["embedded"],
        "seed": [seed],
        "steps": ["1"],
        "size": ["512x512"],
        "format": ["jpeg"],
    }
    assert curl == ["curl", "--fail", "--output", f"it-s-a-cat-a-dog-{seed}.jpg", link]
    answer = page.request.get(link)
    assert answer.headers["content-type"] == "image/jpeg"


# The address


def test_the_address_holds_words_and_seed_and_draws_them_again(page: Any, open_page: OpenPage) -> None:
    type_words(page, "ein grüner Baum 🌳")
    is_kept(page, 1)
    page.wait_for_function("() => location.hash.includes('prompt')")
    state = hash_of(page)
    assert state["prompt"] == "ein grüner Baum 🌳"
    other = connected(open_page("#" + urlsplit(page.url).fragment))
    shows(other, "ein grüner Baum 🌳")
    assert other.locator(PICTURE).get_attribute("data-seed") == state["seed"]
    assert pixel(other) == pixel(page)


def test_a_link_s_steps_are_kept_to_what_the_model_does(open_page: OpenPage, fake: FakeServer) -> None:
    page = connected(open_page("#prompt=cat&seed=5&steps=6"))
    shows(page, "cat")
    assert (fake.generates()[-1]["seed"], fake.generates()[-1]["steps"]) == (5, 6)
    page = connected(open_page("#prompt=dog&seed=5&steps=99"))
    shows(page, "dog")
    assert fake.generates()[-1]["steps"] == 8


def test_following_another_link_in_the_same_page_draws_it(page: Any) -> None:
    page.evaluate("() => { location.hash = '#prompt=dog&seed=9'; }")
    shows(page, "dog")
    assert page.locator(PICTURE).get_attribute("data-seed") == "9"


def test_a_senseless_link_is_taken_for_what_it_is_worth(open_page: OpenPage, fake: FakeServer) -> None:
    page = connected(open_page("#prompt=%F0%9F&seed=-1&steps=abc&x"))
    page.wait_for_selector(f"{PICTURE}[data-seq]")
    assert fake.generates()[-1]["seed"] >= 0


def test_clearing_clears_the_address(page: Any) -> None:
    type_words(page, "cat")
    page.wait_for_function("() => location.hash !== ''")
    page.keyboard.press("Escape")
    page.wait_for_function("() => location.hash === ''")


# What the server says


def test_warm_up_shows_a_progress_bar_and_words_typed_meanwhile_are_drawn(
    open_page: OpenPage, fake: FakeServer
) -> None:
    fake.behave(warmup=(("loading embedded", 0.4), ("warming up", 0.8)), warmup_step=0.6)
    page = open_page()
    bar = page.get_by_role("progressbar", name="Warming up")
    bar.wait_for()
    assert bar.get_attribute("aria-valuenow") == "40"
    assert "loading embedded" in bar.inner_text()
    assert page.locator("#connection-text").inner_text() == "Warming up"
    type_words(page, "cat")
    shows(page, "cat")
    assert not bar.is_visible()
    assert page.locator("#connection-text").inner_text() == "Live"


def test_an_error_is_said_politely_and_goes_with_the_next_key(page: Any, fake: FakeServer) -> None:
    fake.behave(errors=[{"code": "invalid_request", "message": "No such thing.", "field": "prompt"}])
    type_words(page, "c")
    notice = page.locator("#notice")
    notice.get_by_text("No such thing.").wait_for()
    assert notice.get_attribute("aria-live") == "polite"
    assert page.locator("#stroke").get_attribute("data-wet") is None
    type_words(page, "at")
    shows(page, "cat")
    assert notice.inner_text() == ""


def test_an_overloaded_server_is_named_and_the_picture_comes_later(page: Any, fake: FakeServer) -> None:
    fake.behave(errors=[{"code": "overloaded", "message": "Too busy.", "retry_after_ms": 400}])
    page.locator(PROMPT).fill("cat")
    page.locator("#notice").get_by_text("Too busy. Trying again.").wait_for()
    shows(page, "cat")
    assert page.locator("#notice").inner_text() == ""


def test_too_long_a_prompt_is_not_sent(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(limits={"max_prompt_chars": 10})
    page = connected(open_page())
    page.locator(PROMPT).fill("a prompt that is too long")
    page.locator("#notice").get_by_text("At most 10 characters; these are 25.").wait_for()
    assert fake.generates() == []


def test_a_truncated_prompt_is_flagged(page: Any, fake: FakeServer) -> None:
    fake.behave(truncate_after=5)
    type_words(page, "red apple")
    shows(page, "red apple")
    page.locator("#notice").get_by_text("was cut").wait_for()


def test_a_slip_that_was_put_right_is_said_once_typing_pauses(page: Any, fake: FakeServer) -> None:
    type_words(page, "red elphant")
    shows(page, "red elphant")
    page.locator("#notice").get_by_text("Read as “red elephant”.").wait_for()
    assert page.locator("#hint").is_hidden(), "they stand in the same place"
    type_words(page, " hat")
    shows(page, "red elphant hat")
    page.locator("#notice").get_by_text("Read as “red elephant hat”.").wait_for()


def test_a_broken_picture_is_said(page: Any, fake: FakeServer) -> None:
    fake.draw = lambda *_: b"not a picture"
    type_words(page, "c")
    page.locator("#notice").get_by_text("could not read").wait_for()


def test_it_reconnects_and_draws_what_was_typed_meanwhile(page: Any, fake: FakeServer, console: Any) -> None:
    console.tolerant = True  # the browser itself reports each refused connection
    type_words(page, "cat")
    shows(page, "cat")
    fake.stop()
    page.wait_for_selector('#connection[data-state="waiting"]')
    assert page.locator("#connection-text").inner_text() == "Reconnecting"
    type_words(page, "s on a wall")
    fake.start()
    shows(page, "cats on a wall")
    assert page.locator("#connection-text").inner_text() == "Live"


def test_a_restart_in_the_middle_of_a_word_loses_nothing(page: Any, fake: FakeServer) -> None:
    fake.behave(delay=0.2)
    type_words(page, "red ap")
    fake.say({"type": "draining"})
    type_words(page, "ple")
    fake.close_sockets(1012)
    shows(page, "red apple")


def test_a_refused_page_says_why_and_offers_to_try_again(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(refuse_with=1008)
    page = open_page()
    page.locator("#notice").get_by_text("not here").wait_for()
    assert page.locator("#connection-text").inner_text() == "Not connected"
    fake.behave(refuse_with=None)
    page.get_by_role("button", name="Try again").click()
    connected(page)
    assert not page.get_by_role("button", name="Try again").is_visible()


def test_a_key_is_asked_for_used_and_kept_for_the_tab(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(key="open sesame")
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Connect").click()
    until(lambda: fake.received[-1].get("token") == "wrong")
    page.get_by_label("Key", exact=True).fill("open sesame")
    page.get_by_role("button", name="Connect").click()
    connected(page)
    assert not page.locator("#access").is_visible()
    assert page.locator("#notice").inner_text() == ""
    type_words(page, "cat")
    shows(page, "cat")
    page.get_by_role("button", name="Copy as curl").click()
    page.wait_for_selector("#copy-curl[data-done]")
    curl = page.evaluate("() => navigator.clipboard.readText()")
    assert "$ONESTROKE_API_KEY" in curl
    assert "sesame" not in curl + page.url
    page.reload()
    connected(page)


def test_another_key_counts_while_a_wrong_one_is_being_refused(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(key="open sesame")
    page = open_page()
    page.get_by_label("Key", exact=True).fill("wrong")
    fake.behave(refusal_delay=60)
    page.get_by_role("button", name="Connect").click()
    until(lambda: fake.received[-1].get("token") == "wrong")
    page.get_by_label("Key", exact=True).fill("open sesame")
    page.get_by_role("button", name="Connect").click()
    connected(page)


def test_the_footer_names_the_model_and_its_licence(page: Any) -> None:
    assert page.locator("#model").inner_text() == "embedded A small model for tests"
    assert page.locator("#licence").inner_text() == "Apache-2.0, commercial use allowed"
    assert page.get_by_role("link", name="Apache-2.0").get_attribute("href").startswith("https://")
    assert page.locator("#facts").inner_text() == "0.5 GB of memory. Limits: squares alone"


def test_a_licence_address_that_is_no_web_page_is_not_linked(open_page: OpenPage, fake: FakeServer) -> None:
    licence = {"name": "unknown", "terms": "commercial terms unknown", "url": "javascript:alert(1)"}
    fake.behave(model=fake.behaviour.model | {"licence": licence, "description": "<b>bold</b>"})
    page = connected(open_page())
    assert page.locator("#licence a").count() == 0
    assert page.locator("#model").inner_text() == "embedded <b>bold</b>"


# Drawing over a picture

PHOTO = {"name": "photo.png", "mimeType": "image/png", "buffer": draw("photo", 1, (64, 48), "png")}
READS: dict[str, Any] = {**MODEL, "reads_pictures": True, "family": "sd"}
DROP = """async ([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  document.getElementById("mount").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }),
  );
}"""


def test_a_chosen_picture_is_drawn_over_until_it_is_taken_away(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(model=READS)
    page = connected(open_page())
    type_words(page, "cat")
    shows(page, "cat")
    assert not page.get_by_label("Strength").is_visible()
    page.get_by_label("Draw over").set_input_files(PHOTO)
    page.get_by_alt_text("The picture that is drawn over").wait_for()
    page.wait_for_function("() => document.getElementById('copy-link').disabled")
    sent = next(message for message in fake.received if message["type"] == "image")
    assert sent["data"] == PHOTO["buffer"]
    drawn = fake.generates()[-1]
    assert (drawn["image"], drawn["strength"], drawn["steps"]) == (sent["id"], 0.6, 2)
    page.get_by_label("Strength").fill("0.2")
    until(lambda: (fake.generates()[-1]["strength"], fake.generates()[-1]["steps"]) == (0.2, 5))
    page.get_by_role("button", name="Take the picture away").click()
    page.wait_for_function("() => !document.getElementById('copy-link').disabled")
    until(lambda: {"type": "forget", "id": sent["id"]} in fake.received)
    until(lambda: "image" not in fake.generates()[-1])
    assert not page.get_by_label("Strength").is_visible()


def test_a_picture_may_be_dropped_and_muse_takes_its_many_steps(
    open_page: OpenPage, fake: FakeServer
) -> None:
    muse = READS | {"name": "muse", "family": "muse", "default_steps": 12, "max_steps": 100}
    fake.behave(model=READS, others=(muse,))
    page = connected(open_page())
    type_words(page, "cat")
    page.evaluate(DROP, [list(PHOTO["buffer"]), "photo.png"])
    page.get_by_alt_text("The picture that is drawn over").wait_for()
    page.wait_for_function("() => document.getElementById('copy-link').disabled")
    page.get_by_label("Model").select_option("muse")
    until(lambda: fake.generates()[-1]["model"] == "muse")
    drawn = fake.generates()[-1]
    assert (drawn["image"], drawn["steps"], "strength" in drawn) == ("picture-1", 100, False)
    assert not page.get_by_label("Strength").is_visible()


def test_what_is_no_picture_and_what_the_server_does_not_take_is_said(
    open_page: OpenPage, fake: FakeServer
) -> None:
    fake.behave(model=READS)
    page = connected(open_page())
    type_words(page, "cat")
    shows(page, "cat")
    notice = page.locator("#notice")
    page.get_by_label("Draw over").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    )
    page.wait_for_function("() => document.getElementById('notice').textContent")
    assert "notes.txt is no picture" in notice.inner_text()
    fake.behave(errors=[{"code": "invalid_request", "message": "image is broken", "field": "image"}])
    page.get_by_label("Draw over").set_input_files(PHOTO)
    page.wait_for_function("() => document.getElementById('notice').textContent === 'image is broken'")
    assert not page.get_by_alt_text("The picture that is drawn over").is_visible()
    until(lambda: "image" not in fake.generates()[-1])
    page.wait_for_timeout(100)  # its picture comes, and does not wipe the words away
    assert notice.inner_text() == "image is broken"


def test_a_picture_that_is_too_large_is_made_smaller(open_page: OpenPage, fake: FakeServer) -> None:
    fake.behave(model=READS, limits={"max_picture_bytes": 10})
    page = connected(open_page())
    page.get_by_label("Draw over").set_input_files({**PHOTO, "buffer": draw("photo", 1, (2048, 512), "png")})
    page.get_by_alt_text("The picture that is drawn over").wait_for()
    # It is seen before it is sent.
    until(lambda: any(message["type"] == "image" for message in fake.received))
    sent = next(message for message in fake.received if message["type"] == "image")
    assert Image.open(io.BytesIO(sent["data"])).size == (1024, 256)


def test_a_model_that_starts_from_no_picture_offers_none(page: Any) -> None:
    assert not page.get_by_label("Draw over").is_visible()


# For every eye, ear and hand


def test_every_control_has_a_name(page: Any) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    controls = page.locator(
        "button:visible, input:visible, select:visible, textarea:visible, a[href]:visible"
    )
    assert controls.count() >= 11
    for control in controls.all():
        role_and_name = control.aria_snapshot()
        assert re.search(r'"[^"]{2,}"', role_and_name), role_and_name


def test_the_picture_is_announced_only_after_a_pause(page: Any) -> None:
    announcer = page.locator("#announcer")
    assert announcer.get_attribute("aria-live") == "polite"
    type_words(page, "red apple", delay=60)
    shows(page, "red apple")
    assert announcer.inner_text() == ""
    page.wait_for_function(
        "() => document.getElementById('announcer').textContent === 'Picture of red apple'"
    )
    assert page.get_by_role("img", name="Picture of red apple").count() == 1


def test_slash_goes_back_to_the_words_but_may_be_typed_in_them(page: Any) -> None:
    page.get_by_label("Format").focus()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Another take").focus()
    page.keyboard.press("/")
    assert page.locator(PROMPT).evaluate("(field) => field === document.activeElement")
    assert page.locator(PROMPT).input_value() == ""
    page.keyboard.press("/")
    assert page.locator(PROMPT).input_value() == "/"


def test_tab_reaches_everything_and_focus_is_seen(page: Any) -> None:
    type_words(page, "cat")
    is_kept(page, 1)
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        style = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.id || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        reached.append(style[0])
        if style[0] not in ("BODY", "prompt"):
            assert style[1] != "none", style
            assert style[2] >= 2, style
    for control in ("seed", "lock", "dice", "steps", "format", "download", "copy-link", "copy-curl"):
        assert control in reached


@pytest.mark.parametrize(
    ("width", "height"), [(360, 740), (320, 568), (740, 360), (768, 1024), (1280, 800), (1920, 1080)]
)
def test_nothing_scrolls_sideways(open_page: OpenPage, width: int, height: int) -> None:
    page = connected(open_page(width=width, height=height))
    fits = "() => document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    type_words(page, "anextraordinarilylongwordwithoutanyspace" * 3, delay=0)
    is_kept(page, 1)
    assert page.evaluate(fits)
    box = page.locator(PICTURE).bounding_box()
    assert abs(box["width"] - box["height"]) < 1
    assert box["width"] >= 0.5 * min(width, height)


def test_a_desktop_shows_words_and_picture_without_scrolling(page: Any) -> None:
    type_words(page, "red apple on a blue background")
    shows(page, "red apple on a blue background")
    assert page.evaluate("() => document.documentElement.scrollHeight <= innerHeight")


def brightness(page: Any, element: str, part: str) -> float:
    rgb = page.evaluate(f"() => getComputedStyle(document.querySelector('{element}')).{part}")
    red, green, blue = (int(value) for value in re.findall(r"\d+", rgb)[:3])
    return (red + green + blue) / 765


def test_it_is_dark_where_dark_is_wanted(open_page: OpenPage) -> None:
    light = connected(open_page(color_scheme="light"))
    dark = connected(open_page(color_scheme="dark"))
    assert brightness(light, "html", "backgroundColor") > 0.8 > 0.2 > brightness(light, "html", "color")
    assert brightness(dark, "html", "backgroundColor") < 0.2 < 0.8 < brightness(dark, "html", "color")


def test_nothing_moves_where_motion_is_unwanted(open_page: OpenPage) -> None:
    page = connected(open_page(reduced_motion="reduce"))
    for element in ("#stroke", "#picture", "#enso"):
        duration = page.locator(element).evaluate("(e) => getComputedStyle(e).transitionDuration")
        assert set(re.findall(r"[\d.]+", duration)) == {"0"}, element


def test_an_hour_of_typing_leaves_nothing_behind(page: Any) -> None:
    """Object URLs are few however many pictures have come, and bitmaps are closed."""
    page.evaluate(
        """() => {
          window.urls = 0;
          const { createObjectURL, revokeObjectURL } = URL;
          URL.createObjectURL = (blob) => { urls += 1; return createObjectURL.call(URL, blob); };
          URL.revokeObjectURL = (url) => { urls -= 1; return revokeObjectURL.call(URL, url); };
          window.bitmaps = 0;
          const make = createImageBitmap;
          window.createImageBitmap = async (blob) => { const b = await make(blob); bitmaps += 1; return b; };
          const { close } = ImageBitmap.prototype;
          ImageBitmap.prototype.close = function () { bitmaps -= 1; close.call(this); };
        }"""
    )
    for _ in range(4):
        type_words(page, "a long line of words that changes with every key", delay=5)
        page.keyboard.press("Escape")
    type_words(page, "cat")
    is_kept(page, 1)
    assert page.evaluate("() => urls") == 2, "one for the download, one in the strip"
    assert page.evaluate("() => bitmaps") == 0

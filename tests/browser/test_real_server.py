"""The page against the real server: somebody types, and the picture follows.

First with an engine that draws plain colours, for the wire; then with the embedded model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import Server

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.timeout(300)]

OpenPage = Callable[..., Any]

WORDS = "red apple on a blue background"
KEYS_PER_SECOND = 8
WARM_UP = 180_000  # ms

# Read from a copy: the browser warns of a canvas that is drawn fast and read as well.
FINGERPRINT = """(canvas) => {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  let sum = 0;
  for (let index = 0; index < data.length; index += 97) sum = (sum * 31 + data[index]) % 4294967291;
  return sum;
}"""


def ready(page: Any) -> Any:
    page.wait_for_selector('#connection[data-state="ready"]', timeout=WARM_UP)
    return page


def type_and_watch(page: Any, *, at_least: int) -> None:
    """Types at an even pace; `at_least` so many pictures are seen meanwhile, and the last is that of all words."""
    canvas = page.locator("#picture")
    while_typing = set()
    sequence = []
    for letter in WORDS:
        started = time.monotonic()
        page.locator("#prompt").press_sequentially(letter)
        if canvas.get_attribute("data-seq"):
            sequence.append(int(canvas.get_attribute("data-seq")))
            while_typing.add(canvas.evaluate(FINGERPRINT))
        page.wait_for_timeout(max(0, 1000 * (1 / KEYS_PER_SECOND - (time.monotonic() - started))))

    page.wait_for_function(
        "(words) => document.getElementById('picture').dataset.prompt === words", arg=WORDS
    )
    assert len(while_typing) >= at_least, "the picture did not follow while the words were typed"
    assert sequence == sorted(sequence)
    assert int(canvas.get_attribute("data-seq")) >= len(WORDS)
    assert canvas.get_attribute("data-seed") == page.locator("#seed").input_value()
    assert page.locator("#notice").inner_text() == ""
    assert float(page.locator("#latency").inner_text()) > 0


def test_the_page_speaks_the_server_s_wire(double_server: Server, open_page: OpenPage) -> None:
    page = ready(open_page(url=double_server.url))
    type_and_watch(page, at_least=5)
    page.get_by_label("Steps").fill("2")
    page.keyboard.press("Escape")
    page.locator("#prompt").fill("cat")
    page.wait_for_function("() => document.getElementById('picture').dataset.prompt === 'cat'")
    link = page.evaluate(
        """async () => {
          const { generateUrl } = await import("/static/onestroke.js");
          return generateUrl("cat", { seed: 1, steps: 2, width: 512, height: 512, format: "png" });
        }"""
    )
    answer = page.request.get(link)
    assert answer.status == 200, answer.text()
    assert answer.headers["content-type"] == "image/png"


def test_every_format_reaches_the_canvas(double_server: Server, open_page: OpenPage) -> None:
    page = ready(open_page(url=double_server.url))
    page.locator("#prompt").fill("cat")
    for value, ending in [("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")]:
        page.get_by_label("Format").select_option(value)
        page.wait_for_function(
            "(ending) => document.getElementById('download').download.endsWith(ending)", arg=ending
        )


def test_the_embedded_model_follows_the_keys(server_url: str, open_page: OpenPage) -> None:
    page = ready(open_page(url=server_url))
    type_and_watch(page, at_least=1)  # on a busy machine a picture may take a second
    page.wait_for_selector("#strip [aria-current]")
    if path := os.environ.get("ONESTROKE_SCREENSHOT"):
        page.wait_for_timeout(400)  # the stroke dries
        page.screenshot(path=path)


def test_a_link_draws_the_same_picture_twice(server_url: str, open_page: OpenPage) -> None:
    fingerprints = []
    for _ in range(2):
        page = open_page("#prompt=smiling+cat&seed=7", url=server_url)
        page.wait_for_selector('#picture[data-prompt="smiling cat"]', timeout=WARM_UP)
        assert page.locator("#picture").get_attribute("data-seed") == "7"
        fingerprints.append(page.locator("#picture").evaluate(FINGERPRINT))
    assert fingerprints[0] == fingerprints[1]

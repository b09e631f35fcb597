"""The page against the real server: somebody types, and the picture follows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.timeout(300)]

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


def test_somebody_types_and_the_picture_follows(server_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url=server_url)
    page.wait_for_selector('#connection[data-state="ready"]', timeout=WARM_UP)
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
    assert len(while_typing) >= 2, "the picture did not change while the words were typed"
    assert sequence == sorted(sequence)
    assert int(canvas.get_attribute("data-seq")) >= len(WORDS)
    assert canvas.get_attribute("data-seed") == page.locator("#seed").input_value()
    assert page.locator("#notice").inner_text() == ""
    assert float(page.locator("#latency").inner_text()) > 0

    page.wait_for_selector("#strip [aria-current]")
    if path := os.environ.get("ONESTROKE_SCREENSHOT"):
        page.wait_for_timeout(400)  # the stroke dries
        page.screenshot(path=path)


def test_a_link_draws_the_same_picture_twice(server_url: str, open_page: Callable[..., Any]) -> None:
    fingerprints = []
    for _ in range(2):
        page = open_page("#prompt=smiling+cat&seed=7", url=server_url)
        page.wait_for_selector('#picture[data-prompt="smiling cat"]', timeout=WARM_UP)
        assert page.locator("#picture").get_attribute("data-seed") == "7"
        fingerprints.append(page.locator("#picture").evaluate(FINGERPRINT))
    assert fingerprints[0] == fingerprints[1]

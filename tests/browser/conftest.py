"""A headless Chromium and a fake server for it.

Playwright's synchronous API keeps an event loop running for as long as it is open, which would break
asynchronous tests: so the browser lives for one module at a time, and these modules have no such tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.fake_server import FakeServer

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 10_000  # ms


class Console:
    """What a page complained about. Each test fails on a complaint unless it sets `tolerant`."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.tolerant = False

    def watch(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_message)

    def _on_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def running_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def fake(running_server: FakeServer) -> FakeServer:
    """The fake server, well-behaved again."""
    running_server.reset()
    return running_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, BROWSER_NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSER_NAMES)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(BROWSER_FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    yield console
    if not console.tolerant:
        assert console.complaints == []


@pytest.fixture
def open_page(browser: Any, console: Console, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens the page, by default the fake server's: `open_page("#prompt=cat", width=360, color_scheme="dark")`."""
    contexts = []

    def open_page(
        hash: str = "", *, url: str | None = None, width: int = 1280, height: int = 800, **options: Any
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        console.watch(page)
        page.goto((url or request.getfixturevalue("fake").url) + "/" + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """The page on a desktop, connected."""
    page = open_page()
    page.wait_for_selector('#connection[data-state="ready"]')
    return page

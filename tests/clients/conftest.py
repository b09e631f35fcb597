from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving


@pytest.fixture(scope="session")
def narrow_server() -> Iterator[Server]:
    """A server that asks for the key "secret" and lets two REST pictures wait."""
    with serving("--max-backlog", "2", "--max-batch", "1", env={"ONESTROKE_API_KEY": "secret"}) as running:
        yield running

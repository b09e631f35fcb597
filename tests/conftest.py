from __future__ import annotations

from collections.abc import Iterator

import pytest

from onestroke.models.catalog import CATALOG
from onestroke.models.hub import is_cached
from tests.servers import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The real server on the embedded model."""
    if not is_cached(CATALOG["embedded"]):
        pytest.skip("the embedded model's weights are not here: make them with `make train`")
    with serving(double=False) as running:
        yield running


@pytest.fixture(scope="session")
def server_url(server: Server) -> str:
    return server.url


@pytest.fixture(scope="session")
def double_server() -> Iterator[Server]:
    """The real server and worker process, with an engine that draws plain colours."""
    with serving() as running:
        yield running

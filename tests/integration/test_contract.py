"""schemathesis reads the live OpenAPI document and tries what it allows and what it forbids."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from tests.servers import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def document(double_server: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{double_server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_input_breaks_a_route_or_its_error_envelope(case: schemathesis.Case) -> None:
    answer = case.call(timeout=60)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    if answer.status_code >= 400:
        body = httpx.Response(answer.status_code, content=answer.content).json()
        assert "error" in body or "ready" in body

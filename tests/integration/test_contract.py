"""schemathesis reads the live OpenAPI document and tries what it allows and what it forbids."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.servers import Server

pytestmark = pytest.mark.integration

OPERATIONS = [
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"),
    ("GET", "/v1/generate"),
    ("POST", "/v1/generate"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/readyz"),
]


@pytest.fixture(scope="module")
def document(double_server: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{double_server.url}/openapi.json")


def test_every_route_of_the_document_is_tried(document: schemathesis.BaseSchema) -> None:
    found = {(each.ok().method.upper(), each.ok().path) for each in document.get_all_operations()}
    assert found - {("GET", "/livez"), ("GET", "/metrics")} == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_input_breaks_a_route_or_its_error_envelope(
    document: schemathesis.BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        return  # nothing that could be wrong

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: schemathesis.Case) -> None:
        answer = case.call(timeout=60)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            body = httpx.Response(answer.status_code, content=answer.content).json()
            assert set(body["error"]) == {"message", "type", "param", "code"}

    attempt()

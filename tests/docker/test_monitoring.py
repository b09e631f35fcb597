"""Alerts, the dashboard and the autoscaler ask for metrics that the server has, by labels that they have."""

from __future__ import annotations

import re

import pytest
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from onestroke.metrics import Metrics
from tests.docker.expressions import DOCKER, dashboard, expressions

OF_PROMETHEUS = {"le", "instance", "job"}
GROUPS = yaml.safe_load((DOCKER / "monitoring/alerts.yml").read_text())["groups"]
ALERTS = [rule["expr"] for group in GROUPS for rule in group["rules"]]
SCALING = yaml.safe_load_all((DOCKER / "kubernetes/base/availability.yaml").read_text())
AUTOSCALER = [
    metric["pods"]["metric"]["name"] for each in SCALING for metric in each["spec"].get("metrics", ())
]


def known() -> dict[str, set[str]]:
    """Label names by the names that queries use."""
    found = {}
    for metric in vars(Metrics()).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        suffixes = [""]
        if isinstance(metric, Counter):
            suffixes = ["_total"]
        elif isinstance(metric, Histogram):
            suffixes = ["_bucket", "_sum", "_count"]
        found.update({metric._name + suffix: set(metric._labelnames) for suffix in suffixes})
    return found


KNOWN = known()


@pytest.mark.parametrize("expression", [*ALERTS, *expressions(), *AUTOSCALER])
def test_a_query_names_what_there_is(expression: str) -> None:
    names = set(re.findall(r"\bonestroke_\w+", expression))
    if not names:
        assert expression.strip().startswith("up{")
        return
    assert names <= KNOWN.keys()
    labels = set().union(*(KNOWN[name] for name in names)) | OF_PROMETHEUS
    used = re.findall(r"(\w+)\s*=~?\"", expression)
    used += [label for by in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", by)]
    assert set(used) <= labels


def test_the_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"prometheus"}
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"
    assert max(x for x, _ in taken) < 24

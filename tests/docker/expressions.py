"""What docker/check.sh gives to promtool: the server's exposition, and the dashboard's expressions as rules.

python -m tests.docker.expressions exposition | promtool check metrics
python -m tests.docker.expressions rules
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onestroke.metrics import Metrics

DOCKER = Path(__file__).parent.parent.parent / "docker"
DASHBOARD = DOCKER / "monitoring" / "grafana" / "dashboards" / "onestroke.json"


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def expressions() -> Iterator[str]:
    """Every panel's, with Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")


def rules() -> dict[str, Any]:
    """As recording rules, since promtool reads expressions nowhere else."""
    records = [{"record": f"panel:{i}", "expr": each} for i, each in enumerate(expressions())]
    return {"groups": [{"name": "dashboard", "rules": records}]}


if __name__ == "__main__":
    if sys.argv[1:] == ["exposition"]:
        print(Metrics().exposition().decode(), end="")
    else:
        print(json.dumps(rules()))

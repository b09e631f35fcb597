"""The manifests' figures and those that they are made from."""

from __future__ import annotations

import yaml

from onestroke.models.catalog import CATALOG
from tests.docker.expressions import DOCKER


def test_a_gpu_replica_asks_for_the_memory_that_its_model_says() -> None:
    deployment = yaml.safe_load((DOCKER / "kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    asked = int(container["resources"]["requests"]["memory"].removesuffix("Gi"))
    allowed = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert asked == round(CATALOG["sdxl-turbo"].memory_bytes / 2**30) + 2
    assert allowed == 2 * asked

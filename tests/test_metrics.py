from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from onestroke.metrics import Metrics, merged


def test_several_servers_metrics_are_told_apart_and_none_is_changed() -> None:
    servers = {"a": Metrics(), "b": Metrics()}
    for count, each in enumerate(servers.values(), start=1):
        each.pictures.labels(lane="bulk", model="embedded").inc(count)
        each.queue_seconds.labels(lane="bulk").observe(0.003)
    text = merged({name: each.registry.collect() for name, each in servers.items()}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == len(list(text_string_to_metric_families(text))), "a family is told of twice"
    for name, server in servers.items():
        alone = text_string_to_metric_families(server.exposition().decode())
        for family in alone:
            assert families[family.name].type == family.type
            for sample in family.samples:
                assert (
                    sample._replace(labels={**sample.labels, "replica": name})
                    in families[family.name].samples
                )

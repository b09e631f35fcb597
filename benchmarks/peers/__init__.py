"""Who else runs on the same weights, and how to start and speak to them.

A peer that serves is a `serving.Server`: a command, where it answers once warm, and its wire. A peer that is
only a call (diffusers) is a target (see `targets`). To add one: write its file here and list it.
"""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.serving import NAIVE, Server, module

LITSERVE = Server(
    "litserve", module("benchmarks.peers.litserve"), "/health", "/health", transport="post", path="/generate"
)


def servers() -> tuple[Server, ...]:
    """Every server that can run here beside ours."""
    return (NAIVE, LITSERVE) if find_spec("litserve") else (NAIVE,)

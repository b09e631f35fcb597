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
RAY = Server(
    "ray", module("benchmarks.peers.ray_serve"), "/generate", "/generate", transport="post", path="/generate"
)
SERVERS = {
    NAIVE: "",
    LITSERVE: "make install-dev",
    RAY: "make install-ray (400 MB; it takes 3 GB of memory)",
}
"""Every server that can run beside ours, and how to get it."""


def missing(server: Server) -> bool:
    """Whether what it is made of is not installed here."""
    return server is not NAIVE and find_spec(server.name) is None

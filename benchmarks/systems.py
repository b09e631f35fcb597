"""Fifty steps against one: the systems that people compare, each as one picture from prompt to JPEG bytes.

All at 512x512, with the first of the run's decoders, on the same pipeline. SDXL Turbo at 1 and 4 steps without
guidance; SDXL, which has the very same network, at 50 steps of Euler with guidance; SD 1.5, with random weights of
its exact configuration, at 50 steps of DDIM with guidance.
"""

from __future__ import annotations

from benchmarks.options import Decoder
from benchmarks.session import Session, say
from benchmarks.statistics import median

CALLS = 3
SDXL = {
    "turbo_1": (1, 0.0, "euler_ancestral"),
    "turbo_4": (4, 0.0, "euler_ancestral"),
    "sdxl_50": (50, 5.0, "euler"),
}
SD15 = {"sd15_50": (50, 7.5, "ddim")}
"""Steps, guidance scale and sampler by row."""


def measure(session: Session) -> None:
    """Rows `systems.*.ms`, where the run's model has SDXL Turbo's shapes."""
    decoder = session.options.decoders[0]
    if not session.child("ours", decoder).sdxl_turbo:
        say("no rows of other systems: they are for a model of SDXL Turbo's shapes")
        return
    for child, systems in (
        (session.child("ours", decoder), SDXL),
        (session.child("ours", Decoder(), "random:sd15"), SD15),
    ):
        for name, recipe in systems.items():
            say(f"system {name}")
            found = child.ask("recipe", n=1, calls=CALLS, stream=session.streams(), recipe=recipe)
            session.report.add(f"systems.{name}.ms", 1000 * median(found["seconds"]), "ms")

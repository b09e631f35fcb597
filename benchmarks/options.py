"""What can be asked of a run, and the numbers behind it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

PARTS = (
    "pipeline", "compiled", "streamdiffusion", "systems", "http", "socket", "typists", "naive", "litserve", "ray",
    "mixed", "roofline",
)  # fmt: skip
QUICK_PARTS = ("pipeline", "http", "socket", "typists", "naive", "roofline")
ON_DEMAND = ("streamdiffusion",)
"""Parts that are left out unless they are asked for: this one is for SD-Turbo alone."""
SLOW_ON_CPU = ("compiled", "systems")
"""Parts that a run on a CPU leaves out as well: they take many minutes there."""
DECODERS = ("full", "tiny")
RANDOM = "random:"
"""Begins the name of a model with random weights in memory (see `weights`)."""
IN_PROCESS = ("pipeline", "compiled", "streamdiffusion", "systems", "roofline")
"""The parts that such a model can be measured in: a server wants files."""
COMPILE_MODES = ("max-autotune", "reduce-overhead", "default")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is measured; the same words as `onestroke serve` takes, for ours and for every peer."""

    model: str = "auto"
    vae: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    max_batch: int = 8
    levers: dict[str, str] = field(default_factory=dict)
    """Switches of our own pipeline (see `onestroke.levers`), which no peer has."""

    @property
    def flags(self) -> list[str]:
        """Of `onestroke serve`."""
        words = {name: value for name, value in asdict(self).items() if name != "levers"} | self.levers
        return [flag for name, value in words.items() for flag in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder that is measured: `vae` is what `onestroke serve --vae` takes, `name` full, tiny, or "" for the
    model's own."""

    name: str = ""
    vae: str = "auto"

    @property
    def word(self) -> str:
        """What it adds to a row's name: nothing, ".full" or ".tiny"."""
        return f".{self.name}" if self.name else ""


def decoders_of(text: str) -> tuple[Decoder, ...]:
    """From "own", "full,tiny" or "full=VAE,tiny=VAE". Raises ValueError for another name."""
    if text == "own":
        return (Decoder(),)
    pairs = [word.strip().partition("=") for word in text.split(",")]
    if unknown := {name for name, *_ in pairs} - set(DECODERS):
        raise ValueError(
            f"no decoder {', '.join(sorted(unknown))}: give own, or some of {', '.join(DECODERS)}"
        )
    return tuple(Decoder(name, vae or name) for name, _, vae in pairs)


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` is one window of typing, warm-up excluded; `repeats` the windows that a median is taken of.

    `parts` None: all that suit the device. `rounds`: how often the blocks of one comparison take turns, so that
    a machine that changes its speed changes it for all of them. `block_seconds`: about how long one block of
    repeated calls lasts. The last of `decoders` is the main one: crowds and peers are measured with it.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    decoders: tuple[Decoder, ...] = (Decoder(),)
    parts: tuple[str, ...] | None = None
    seed: int = 20_250
    seconds: float = 3.5
    repeats: int = 2
    rounds: int = 12
    block_seconds: float = 0.35
    batches: tuple[int, ...] = (1, 2, 4, 8)
    typists: tuple[int, ...] = (1, 4, 16, 64)
    keys_per_second: float = 8.0
    compile_mode: str = COMPILE_MODES[0]
    out: Path | None = None

    def __contains__(self, part: str) -> bool:
        return part in (PARTS if self.parts is None else self.parts)

    @property
    def main(self) -> Decoder:
        return self.decoders[-1]

    @property
    def ends(self) -> tuple[int, ...]:
        """The smallest batch, and 8 or else the largest: where stages and slow peers are measured."""
        return tuple(sorted({self.batches[0], 8 if 8 in self.batches else self.batches[-1]}))

    def quick(self) -> Options:
        """Short windows, few rounds, two batches, few peers: good for a look, not for the record."""
        return replace(
            self,
            parts=QUICK_PARTS if self.parts is None else self.parts,
            seconds=2.0,
            repeats=1,
            rounds=2,
            block_seconds=0.3,
            batches=self.ends,
            typists=(1, 16),
        )

    def on(self, device: str) -> Options:
        """With the parts that suit `device`, where none were asked for."""
        if self.parts is not None:
            return self
        left_out = {*ON_DEMAND, *(SLOW_ON_CPU if device == "cpu" else ())}
        return replace(self, parts=tuple(part for part in PARTS if part not in left_out))

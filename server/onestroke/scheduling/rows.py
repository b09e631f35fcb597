"""A row: one picture on its way through the scheduler, from its acceptance to its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from onestroke.core import GenerationRequest


class Lane(Enum):
    """Who waits: a person who types (one row at a time, newest wins) or an app."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(slots=True, eq=False)
class Row:
    """`arrived` is the age that ordering looks at (a keystroke inherits it from the one it replaces),
    `accepted` the time of its own acceptance, `served` the end of its last pass. Times in seconds of the
    scheduler's clock."""

    id: int
    request: GenerationRequest
    lane: Lane
    tenant: str
    arrived: float
    accepted: float
    deadline: float
    served: float = 0.0
    steps_done: int = 0
    begun: bool = False
    alone: bool = False
    """Set after a death of its worker: it rides by itself, so that the row that kills again is known."""

    @property
    def steps_left(self) -> int:
        return self.request.passes - self.steps_done

    @property
    def idle_since(self) -> float:
        """Since when nothing has been done for it."""
        return max(self.arrived, self.served)

    def restart(self) -> None:
        """Back to before the first step: what the front keeps is enough to replay it."""
        self.steps_done, self.begun, self.served, self.alone = 0, False, 0.0, True

"""The scheduler's end of a worker."""

from __future__ import annotations

from typing import Protocol

from onestroke.workers.messages import Command


class Link(Protocol):
    """What the scheduler needs of a worker process; another incarnation of it is another link of the same name."""

    @property
    def name(self) -> str: ...
    def send(self, command: Command) -> None: ...
    def kill(self, reason: str) -> None: ...

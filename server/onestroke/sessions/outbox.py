"""What waits to be sent to one client: a few control messages and at most one picture.

A slow reader costs no memory: an unsent picture is overwritten by a newer one, `superseded` and `status`
coalesce, and anything else past CONTROL_LIMIT means that the client does not read at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CONTROL_LIMIT = 64

Control = Mapping[str, Any]


class Outbound(NamedTuple):
    """One picture on its way: the header of the binary message, and the image's bytes."""

    seq: int
    header: Mapping[str, Any]
    data: bytes


class OutboxFull(Exception):
    """The client has stopped reading control messages; its socket is to be closed."""


@dataclass(slots=True)
class Outbox:
    controls: deque[Control] = field(default_factory=deque)
    picture: Outbound | None = None
    superseded_through: int | None = None
    status: Control | None = None

    def put(self, message: Control) -> None:
        """Raises OutboxFull."""
        if len(self.controls) >= CONTROL_LIMIT:
            raise OutboxFull
        self.controls.append(message)

    def put_status(self, message: Control) -> None:
        """Only the newest status is worth sending."""
        self.status = message

    def put_superseded(self, seq: int) -> None:
        self.superseded_through = max(seq, self.superseded_through or 0)

    def put_picture(self, picture: Outbound) -> None:
        if self.picture:
            self.put_superseded(self.picture.seq)
        self.picture = picture

    def take(self) -> Control | Outbound | None:
        """The next message: status, controls, superseded, and the picture last; None when there is none."""
        if self.status:
            message, self.status = self.status, None
            return message
        if self.controls:
            return self.controls.popleft()
        if self.superseded_through is not None:
            through, self.superseded_through = self.superseded_through, None
            return {"type": "superseded", "through": through}
        picture, self.picture = self.picture, None
        return picture

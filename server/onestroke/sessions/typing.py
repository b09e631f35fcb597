"""What a typing session owes for each key: replace, draw, show, or say that it is superseded.

At most one key waits and one is being drawn. A newer key replaces the waiting one and never cancels the one
being drawn: otherwise nothing would be seen while somebody types fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onestroke.errors import InvalidRequest


@dataclass(slots=True)
class TypingSession:
    """`seen` is the highest seq received, `shown` the highest delivered or given up on.

    `pending` are seqs submitted and not answered, oldest first: at most two.
    """

    seen: int = -1
    shown: int = -1
    pending: list[int] = field(default_factory=list)

    def key(self, seq: int) -> None:
        """A key arrives. Raises InvalidRequest when its seq does not rise."""
        if seq <= self.seen:
            raise InvalidRequest(f"seq must rise within a session: {seq} came after {self.seen}", "seq")
        self.seen = seq

    def submitted(self, seq: int, *, replaces: int | None = None) -> None:
        """Its request was accepted, and takes the place of one that waited, if any did."""
        if replaces is not None:
            self.pending.remove(replaces)
        self.pending.append(seq)

    def finished(self, seq: int) -> bool:
        """Its picture is there; returns whether it is still worth showing."""
        self._settle(seq)
        if seq <= self.shown:
            return False
        self.shown = seq
        return True

    def failed(self, seq: int) -> bool:
        """It could not be drawn; returns whether the person still cares to know."""
        self._settle(seq)
        return seq > self.shown

    def cancelled(self, seq: int) -> list[int]:
        """The person gives up on `seq` and all before it; returns those that were still pending."""
        gone = [each for each in self.pending if each <= seq]
        self.pending = [each for each in self.pending if each > seq]
        self.shown = max(self.shown, min(seq, self.seen))
        return gone

    def _settle(self, seq: int) -> None:
        if seq in self.pending:
            self.pending.remove(seq)

"""What a run leaves: one JSON file, and the same rows as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `unit`: ms, s, images/s, x (a ratio), share (0 to 1), %, GFLOP, GFLOP/s, GB/s, or pictures."""

    name: str
    value: float
    unit: str


@dataclass(slots=True)
class Report:
    """One run on one machine. `commit` ends in "+" when the tree differed from it."""

    device: str
    torch: str
    commit: str
    threads: int
    model: str
    command: str
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str) -> None:
        """Append a row. A figure that could not be had (NaN, infinite) is left out. Raises on a second use."""
        if name in self:
            raise ValueError(f"the row {name} is there already")
        if math.isfinite(value):
            self.rows.append(Row(name, float(f"{value:.5g}"), unit))

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.rows)

    def get(self, name: str) -> float | None:
        return next((row.value for row in self.rows if row.name == name), None)

    def ratio(self, name: str, above: str, below: str) -> None:
        """The row `name` = `above` / `below`, where both are there."""
        over, under = self.get(above), self.get(below)
        if over is not None and under:
            self.add(name, over / under, "x")

    def difference(self, name: str, left: str, right: str) -> None:
        """The row `name` = `left` - `right` in ms, where both are there."""
        a, b = self.get(left), self.get(right)
        if a is not None and b is not None:
            self.add(name, a - b, "ms")

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        found: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**found, "rows": [Row(**row) for row in found["rows"]]})

    def table(self) -> Iterator[str]:
        """Lines for a terminal, a blank one between groups (rows that share their first word)."""
        yield f"{self.device} | torch {self.torch} | {self.threads} threads | {self.model} | {self.commit}"
        width = max((len(row.name) for row in self.rows), default=0)
        group = ""
        for row in self.rows:
            head = row.name.split(".")[0]
            if head != group:
                group = head
                yield ""
            yield f"{row.name:<{width}}  {row.value:>10.5g} {row.unit}"

"""What a run leaves: one JSON file, and the same rows as a table. Runs of one device merge into one."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

NOTES = {
    "published": "Stability AI's own figure for SDXL Turbo on an A100: 512x512, one step, full VAE",
    "estimate": "that figure x this device's roofline / an A100's: an estimate of what the same software would "
    "take here, not a measurement",
}
"""What a reader must know of some groups of rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `unit`: ms, s, images/s, x (a ratio), share (0 to 1), %, GFLOP, GFLOP/s, GB/s, or pictures."""

    name: str
    value: float
    unit: str


@dataclass(slots=True)
class Report:
    """One run on one machine. `commit` ends in "+" when the tree differed from it; `driver` is the card's."""

    device: str
    torch: str
    commit: str
    threads: int
    model: str
    command: str
    rows: list[Row] = field(default_factory=list)
    driver: str = ""

    @property
    def title(self) -> str:
        """What was measured, and on what, in one line."""
        driver = f" (driver {self.driver})" if self.driver else ""
        return f"{self.device}{driver} | torch {self.torch} | {self.threads} threads | {self.model} | {self.commit}"

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
        """The row `name` = `above` / `below`, where both are there and it is not."""
        over, under = self.get(above), self.get(below)
        if over is not None and under and name not in self:
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

    def groups(self) -> Iterator[tuple[str, list[Row]]]:
        """Rows that follow each other and share their first word."""
        for head, rows in itertools.groupby(self.rows, lambda row: row.name.split(".")[0]):
            yield head, list(rows)

    def table(self) -> Iterator[str]:
        """Lines for a terminal, a blank one between groups."""
        yield self.title
        width = max((len(row.name) for row in self.rows), default=0)
        for head, rows in self.groups():
            yield ""
            if head in NOTES:
                yield f"{head}: {NOTES[head]}"
            for row in rows:
                yield f"{row.name:<{width}}  {row.value:>10.5g} {row.unit}"


def merge(reports: Sequence[Report]) -> Report:
    """One report of several runs of the same device, versions and model.

    A row that several have is the first's. `machine.run_s` is the sum, `machine.others_share` the worst. Ratios
    are left out: `compare` makes them of the rows together. Raises ValueError for runs that do not belong together.
    """
    first = reports[0]
    for name in ("device", "torch", "commit", "threads", "model", "driver"):
        found = {getattr(report, name) for report in reports}
        if len(found) > 1:
            raise ValueError(
                f"these runs differ in {name}, so they are not one: {', '.join(map(str, sorted(found)))}"
            )
    rows: dict[str, Row] = {}
    for report in reports:
        for row in report.rows:
            if not row.name.startswith(("ratio.", "machine.")):
                rows.setdefault(row.name, row)
    merged = replace(first, command=" && ".join(report.command for report in reports), rows=[*rows.values()])
    for name, combined, unit in (("machine.others_share", max, "share"), ("machine.run_s", sum, "s")):
        if values := [value for report in reports if (value := report.get(name)) is not None]:
            merged.add(name, combined(values), unit)
    return merged

"""A report as one HTML file that needs nothing beside it: what was measured, the plots, every row."""

from __future__ import annotations

from html import escape

from benchmarks import plot
from benchmarks.results import NOTES, Report

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
figure { margin: 1rem 0; background: #fff; overflow-x: auto }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; font-weight: normal }
td:nth-child(2) { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .9em }
p.note { opacity: .75 }
"""


def render(report: Report) -> str:
    """The whole document."""
    picture = plot.svg(report)
    groups = "\n".join(
        f"<h2>{escape(head)}</h2>"
        + (f'<p class="note">{escape(NOTES[head])}</p>' if head in NOTES else "")
        + "<table>"
        + "".join(
            f'<tr><th scope="row"><code>{escape(row.name)}</code></th><td>{row.value:.5g}</td>'
            f"<td>{escape(row.unit)}</td></tr>"
            for row in rows
        )
        + "</table>"
        for head, rows in report.groups()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Onestroke on {escape(report.device)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Onestroke on {escape(report.device)}</h1><p>{escape(report.title)}</p>"
        f"<p><code>{escape(report.command)}</code></p>"
        + (f"<figure>{picture}</figure>" if picture else "")
        + f"{groups}</body></html>\n"
    )

"""Blind pairwise voting, as the papers' raters had: one static page to vote on, one command to count.

    python -m training.vote page --a FOLDER --b FOLDER --out vote.html     # pictures of the same names
    python -m training.vote count votes.json another.json

The page shows each pair side by side, in an order and on sides of its own choosing, and asks one question. Keys:
left and right arrow, the space bar for "cannot say", backspace to take the last one back. It keeps votes in the
browser and gives them as a JSON file. Undecided votes are left out of the share and told beside it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from training.measures import clopper_pearson, wilson
from training.papers import pictures

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Which one?</title>
<style>body{font:16px system-ui;margin:2em;text-align:center;background:#fff;color:#222}
img{width:min(44vw,512px);margin:.5em;cursor:pointer;border-radius:6px}button{font:inherit;padding:.4em 1em}
h1{font-size:1.3em;min-height:1.6em}p{color:#666}</style>
<h1 id="prompt"></h1><div id="pair"><img id="left" alt="left"><img id="right" alt="right"></div>
<p>QUESTION<br>&larr; left &nbsp; &rarr; right &nbsp; space: cannot say &nbsp; backspace: take back</p>
<p id="progress"></p><p id="share"></p><button id="save">Save the votes</button>
<script>
const PAIRS = DATA, KEY = "votes-" + PAIRS.id, byId = id => document.getElementById(id);
let state = JSON.parse(localStorage.getItem(KEY) || "null");
if (!state) {
  const order = PAIRS.items.map((_, i) => [Math.random(), i]).sort((x, y) => x[0] - y[0]).map(x => x[1]);
  state = {order, swapped: order.map(() => Math.random() < 0.5), votes: []};
}
function wilson(wins, n) {
  const z = 1.959964, p = wins / n, m = (p + z * z / (2 * n)) / (1 + z * z / n);
  const r = z * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
  return [Math.max(0, m - r), Math.min(1, m + r)].map(x => (100 * x).toFixed(1)).join(" to ");
}
function show() {
  localStorage.setItem(KEY, JSON.stringify(state));
  const done = state.votes.length, all = PAIRS.items.length;
  byId("progress").textContent = done + " of " + all;
  if (done === all) {
    const sides = state.votes.map(v => v.chosen).filter(Boolean), wins = sides.filter(c => c === "a").length;
    byId("pair").hidden = true; byId("prompt").textContent = "Thank you";
    byId("share").textContent = !sides.length ? "" : "A preferred " + wins + " of " + sides.length +
      " times, 95% interval " + wilson(wins, sides.length) + "%";
    return;
  }
  byId("pair").hidden = false; byId("share").textContent = "";
  const item = PAIRS.items[state.order[done]], sides = state.swapped[done] ? [item.b, item.a] : [item.a, item.b];
  byId("prompt").textContent = item.prompt; byId("left").src = sides[0]; byId("right").src = sides[1];
}
function vote(side) {
  const done = state.votes.length;
  if (done === PAIRS.items.length) return;
  const chosen = side === null ? null : (side === "left") !== state.swapped[done] ? "a" : "b";
  state.votes.push({prompt: PAIRS.items[state.order[done]].prompt, chosen}); show();
}
byId("left").onclick = () => vote("left"); byId("right").onclick = () => vote("right");
addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") vote("left");
  else if (event.key === "ArrowRight") vote("right");
  else if (event.key === " ") { event.preventDefault(); vote(null); }
  else if (event.key === "Backspace" && state.votes.length) { state.votes.pop(); show(); }
});
byId("save").onclick = () => {
  const link = document.createElement("a");
  const body = {id: PAIRS.id, a: PAIRS.a, b: PAIRS.b, votes: state.votes};
  link.href = URL.createObjectURL(new Blob([JSON.stringify(body, null, 1)], {type: "application/json"}));
  link.download = "votes.json"; link.click();
};
show();
</script></html>
"""
QUESTIONS = {
    "quality": "Which picture looks better?",
    "prompt": "Which picture shows better what the words say?",
}
"""ADD's two questions, in our words."""


def inlined(path: Path, edge: int = 512) -> str:
    """A picture as a data address, at most `edge` pixels wide."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((edge, edge))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def page(a: Path, b: Path, question: str = "quality") -> str:
    """The voting page for two folders' pictures of the same names; a picture's prompt is its name, or its line in
    `prompts.json` ({name: prompt}) beside it."""
    sides = [{path.stem: path for path in pictures(folder)} for folder in (a, b)]
    names = sorted(sides[0].keys() & sides[1].keys())
    if not names:
        raise SystemExit(f"no picture in {a} has the name of one in {b}")
    listed = a / "prompts.json"
    prompts: dict[str, str] = json.loads(listed.read_text()) if listed.exists() else {}
    items = [
        {"prompt": prompts.get(n, n.replace("-", " ")), "a": inlined(sides[0][n]), "b": inlined(sides[1][n])}
        for n in names
    ]
    # Votes belong to pictures, not to folders' names.
    shown = hashlib.sha256(json.dumps(items).encode()).hexdigest()[:12]
    data = {"id": f"{a.name}-{b.name}-{question}-{shown}", "a": a.name, "b": b.name, "items": items}
    # "</" would end the script, whatever it stands in.
    return PAGE.replace("QUESTION", html.escape(QUESTIONS[question])).replace(
        "DATA", json.dumps(data).replace("</", "<\\/")
    )


def count(files: Sequence[Path]) -> dict[str, Any]:
    """All voters' votes together: how often A was preferred, with both binomial intervals at 95%."""
    ballots = [json.loads(path.read_text()) for path in files]
    if len({ballot["id"] for ballot in ballots}) != 1:
        raise SystemExit("these votes are not about the same pictures")
    chosen = [vote["chosen"] for ballot in ballots for vote in ballot["votes"]]
    wins, n = chosen.count("a"), sum(side is not None for side in chosen)
    return {
        "a": ballots[0]["a"],
        "b": ballots[0]["b"],
        "voters": len(ballots),
        "decided": n,
        "undecided": len(chosen) - n,
        "a preferred": round(wins / n, 4) if n else None,
        "Wilson": [round(end, 4) for end in wilson(wins, n)],
        "Clopper-Pearson": [round(end, 4) for end in clopper_pearson(wins, n)] if n else [0.0, 1.0],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line; write the page or print the count."""
    parser = argparse.ArgumentParser(
        prog="python -m training.vote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("page", help="write the voting page")
    for name in ("a", "b", "out"):
        making.add_argument(f"--{name}", type=Path, required=True)
    making.add_argument("--question", choices=QUESTIONS, default="quality")
    counting = commands.add_parser("count", help="count saved votes")
    counting.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args(arguments)
    if args.command == "page":
        args.out.write_text(page(args.a, args.b, args.question))
    else:
        print(json.dumps(count(args.files), indent=1))


if __name__ == "__main__":
    main()

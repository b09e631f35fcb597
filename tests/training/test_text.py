"""The text encoder: its slots, and the mark beside them."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTokenizer

from training import codes, listening, text
from training.captions import Captions
from training.codes import Placed, Target
from training.concepts import INDEX
from training.grammar import parse

PROMPTS = ["a cat and a blue dog", "three apples on pink", "cat, pixel art", "nothing known"]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """The shipped vocabulary."""
    return text.load_tokenizer()


def test_new_embeddings_know_the_things(tokenizer: CLIPTokenizer) -> None:
    """A word's token is like its thing's pattern, and reading it out names the thing."""
    model = text.build(tokenizer)
    text.prime(model, tokenizer)
    row = model.get_input_embeddings().weight[tokenizer.get_vocab()["cat</w>"]]
    assert torch.allclose(row[: codes.THING], text.BEGINNING * codes.PATTERNS[0])
    read = model.text_projection.weight[: codes.THING] @ row / text.BEGINNING**2
    assert int(listening.thing_logits(read[None]).argmax()) == INDEX["cat"]


def test_slots_are_said_exactly_by_a_memory(tokenizer: CLIPTokenizer) -> None:
    """What is roughly a thing, its colour and place becomes exactly that; nothing is added elsewhere."""
    model = text.build(tokenizer)
    text.prime(model, tokenizer)
    body = model.text_model if hasattr(model, "text_model") else model
    layer, positions = body.encoder.layers[-2], body.embeddings.position_embedding.weight
    group = [Target(group=(Placed(10 * i, i % 12, i % 9),)) for i in range(100)]
    exact = torch.zeros(100, codes.WIDTH)
    exact[:, : codes.SLOT] = codes.slots(group)[:, 0]
    torch.manual_seed(0)
    noise = 0.5 * torch.randn_like(exact) * exact.norm(dim=1, keepdim=True) / codes.WIDTH**0.5
    rough, told = text.ROUGH * (exact + noise), torch.zeros(100, codes.WIDTH)
    told[:, -1] = positions[-1, -1]
    with torch.no_grad():
        said = rough + layer.mlp(layer.layer_norm2(rough + told))
        empty = layer.mlp(layer.layer_norm2(told))
        elsewhere = layer.mlp(layer.layer_norm2(rough - told))
    assert (said - exact).norm(dim=1).mean() < 0.5 * noise.norm(dim=1).mean()
    assert empty.norm(dim=1).max() < 0.1
    assert elsewhere.norm(dim=1).max() < 1e-3


def test_the_idle_encoder_marks_the_slots(tokenizer: CLIPTokenizer) -> None:
    """Zero at the text, a flag of its own at each slot, whatever the text."""
    idle = text.build_idle(tokenizer)
    ids = text.tokens(tokenizer, PROMPTS, full=True)
    with torch.no_grad():
        states = idle(ids, output_hidden_states=True).hidden_states[-2]
    expected = codes.states(
        torch.zeros(4, codes.SLOTS, codes.SLOT), torch.zeros(4, text.LENGTH - codes.SLOTS, codes.WIDTH)
    )
    assert torch.equal(states, expected[..., : codes.IDLE])


def test_the_slots_are_hidden_states_before_the_last_layer(tokenizer: CLIPTokenizer) -> None:
    """`read` takes them where the pipeline's cross-attention finds them."""
    model = text.build(tokenizer).eval()
    ids = text.tokens(tokenizer, PROMPTS, full=True)
    with torch.no_grad():
        pooled, slots = text.read(model, ids)
        states = model(ids, output_hidden_states=True).hidden_states
    assert ids.shape[1] == tokenizer.model_max_length == text.LENGTH
    assert len(states) == text.LAYERS + 1
    assert pooled.shape == (4, codes.CODE)
    assert torch.equal(slots, states[text.LAYERS - 1][:, text.LENGTH - 4 :, : codes.SLOT])


def test_nearly_all_captions_end_before_the_slots(tokenizer: CLIPTokenizer) -> None:
    """So the slots' positions hold padding."""
    lengths = [len(ids) for ids in tokenizer(Captions(11).batch(500)[0]).input_ids]
    assert sum(length <= text.LENGTH - codes.SLOTS for length in lengths) > 490


def test_what_is_understood(tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares count what is read exactly: here all but the group's second thing."""
    targets = [parse(prompt) for prompt in PROMPTS]
    slots = codes.slots(targets)
    slots[0, 1] = codes.slots([parse("a cat and a fox")])[0, 1]
    monkeypatch.setattr(text, "read", lambda *_: (codes.encode(targets), slots))
    found = text.accuracy(text.build(tokenizer), tokenizer, PROMPTS, targets)
    assert (found["all"], found["group"], found["background"], found["code_error"]) == (0.75, 0.5, 1, 0)


def test_what_is_missed_comes_often(tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is read as something else is found, one that is read rightly is not."""
    monkeypatch.setattr(text, "LEXICON", {"cat": (), "dog": ()})
    monkeypatch.setattr(text, "KINDS", {"poodle": ()})
    right, wrong = codes.encode([parse("cat")]), codes.encode([parse("a blue cat")])
    monkeypatch.setattr(
        text, "read", lambda *_: (torch.cat([right, wrong, wrong]), torch.zeros(3, 4, codes.SLOT))
    )
    assert text.missed(text.build(tokenizer), tokenizer) == ["dog", "poodle"]

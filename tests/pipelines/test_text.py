"""Prompts are read as diffusers reads them, and an embedding depends on its prompt alone."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.spelling import Spelling
from onestroke.pipelines.text import without_last_layer

PROMPTS = ["", "a cat", "A  Cat!", "naïve 猫 🐈", "one two three four five", "x" * 13, "x" * 14, "x" * 15]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_the_tokenizers_own(pipeline32: Pipeline, prompt: str) -> None:
    tokens = pipeline32.text.tokenize(prompt)
    for tokenizer, ids in zip(pipeline32.text.tokenizers, tokens.ids, strict=True):
        expected = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids[0]
        assert torch.equal(ids, expected)
        assert tokens.truncated == (len(tokenizer(prompt).input_ids) > tokenizer.model_max_length)


def test_a_prompt_past_the_encoders_length_is_reported_as_truncated(pipeline32: Pipeline) -> None:
    assert not pipeline32.text.tokenize("x" * 14).truncated
    assert pipeline32.text.tokenize("x" * 15).truncated


def test_slips_are_put_right_before_anything_is_read(
    pipeline32: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pipeline32.text
    slipped = text.tokenize("a catt.")
    monkeypatch.setattr(text, "spelling", Spelling(["cat"], []))
    right, meant = text.tokenize("a catt."), text.tokenize("a cat.")
    assert right.prompt == meant.prompt == "a cat."  # and so they share what is cached
    for ids, same, others in zip(right.ids, meant.ids, slipped.ids, strict=True):
        assert torch.equal(ids, same)
        assert not torch.equal(ids, others)


@torch.inference_mode()
def test_an_embedding_is_the_same_alone_in_company_and_from_the_cache(pipeline: Pipeline) -> None:
    text = pipeline.text
    tokens = [text.tokenize(f"number {i}") for i in range(2 * text.bucket + 1)]
    text.cache.clear()
    together = text.encode(tokens)
    cached = text.encode(tokens)
    for each in tokens:
        text.cache.clear()
        alone = text.encode([each])[each.prompt]
        assert torch.equal(alone.hidden, together[each.prompt].hidden)
        assert torch.equal(alone.pooled, together[each.prompt].pooled)
        assert cached[each.prompt] is together[each.prompt]


@torch.inference_mode()
def test_a_prompt_is_encoded_once_however_often_it_is_asked_for(pipeline32: Pipeline) -> None:
    text = pipeline32.text
    text.cache.clear()
    calls: list[int] = []
    hook = text.encoders[0].register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    text.encode([text.tokenize("same")] * 20)
    text.encode([text.tokenize("same")])
    hook.remove()
    assert calls == [text.bucket]


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.inference_mode()
def test_the_hidden_state_that_is_used_stays_the_same_without_the_last_layer(layers: int) -> None:
    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    encoder = CLIPTextModel(config).eval()
    ids = torch.arange(8)[None]
    expected = encoder(ids, output_hidden_states=True).hidden_states[-2]
    shorter, reads = without_last_layer(encoder)
    assert torch.equal(shorter(ids, output_hidden_states=True).hidden_states[reads], expected)

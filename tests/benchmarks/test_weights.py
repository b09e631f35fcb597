"""Random weights in memory: whole modules, the same ones every time."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from benchmarks.options import ModelOptions  # noqa: E402
from benchmarks.weights import filled, random_tiny_vae, spec_of  # noqa: E402
from onestroke.errors import ModelError  # noqa: E402

TOKENS = torch.tensor([[1, 2, 3]])


def text_encoder() -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.device("meta"):
        model: torch.nn.Module = CLIPTextModel(config)
    return model


@torch.inference_mode()
def test_a_module_without_memory_is_filled_alike_and_runs() -> None:
    first, second = (filled(text_encoder(), torch.bfloat16) for _ in range(2))
    assert {each.dtype for each in first.parameters()} == {torch.bfloat16}
    assert not any(each.is_meta for each in (*first.parameters(), *first.buffers()))
    drawn = first(TOKENS).last_hidden_state
    assert torch.isfinite(drawn).all()
    assert torch.equal(drawn, second(TOKENS).last_hidden_state)


@torch.inference_mode()
def test_the_tiny_decoder_has_taesds_shape() -> None:
    vae = random_tiny_vae(torch.float32)
    assert sum(each.numel() for each in vae.decoder.parameters()) == 1_222_531
    assert vae.decode(torch.zeros(1, 4, 8, 8)).sample.shape == (1, 3, 64, 64)


def test_a_model_without_these_stages_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="amused-256 is of the family muse: only sdxl and sd"):
        spec_of(ModelOptions("amused-256"))


def test_random_names_a_row_of_the_catalog() -> None:
    assert spec_of(ModelOptions("random:sd15")).name == "sd15"

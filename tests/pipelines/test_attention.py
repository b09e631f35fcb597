"""Fused projections and keys made with the prompt change only rounding; the kernel is the fastest there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.errors import ModelError
from onestroke.levers import Levers
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.attention import counted_shapes, fastest, kernel, rebuild
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline

Ask = Callable[..., GenerationRequest]
CPU = torch.device("cpu")


def latents(pipeline: Pipeline, requests: list[GenerationRequest], steps: int = 2) -> torch.Tensor:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    for _ in range(steps):
        assert not pipeline.step(rows).failed
    return torch.stack([row.latents for row in rows])


@pytest.fixture
def requests(ask: Ask) -> list[GenerationRequest]:
    return [
        ask("a cat", seed=1, steps=2, sampler="lcm"),
        ask("a dog", seed=2, steps=2, guidance_scale=3.0),
        ask("a hen", seed=3, steps=2, guidance_scale=2.0, negative_prompt="feathers"),
    ]


@pytest.mark.parametrize("fuse", ["on", "off"])
@pytest.mark.parametrize("encode_kv", ["on", "off"])
def test_rebuilt_attention_is_the_same_within_rounding(
    spec: ModelSpec, pipeline32: Pipeline, requests: list[GenerationRequest], fuse: str, encode_kv: str
) -> None:
    levers = Levers(fuse=fuse, encode_kv=encode_kv)  # type: ignore[arg-type]
    rebuilt = load(spec, device="cpu", dtype="float32", levers=levers)
    expected = latents(pipeline32, requests)
    off = (latents(rebuilt, requests) - expected).abs().max()
    assert off <= 1e-4 * expected.abs().max()
    names = [name for name, _ in rebuilt.denoiser.unet.named_modules()]
    assert any(name.endswith("attn1.to_qkv") for name in names) == (fuse == "on")
    assert any(name.endswith("attn1.to_q") for name in names) == (fuse == "off")
    assert any(name.endswith("attn2.to_k") for name in names) == (encode_kv == "off")


def test_another_prompts_keys_make_another_picture(
    spec: ModelSpec, requests: list[GenerationRequest], ask: Ask
) -> None:
    rebuilt = load(spec, device="cpu", dtype="float32", levers=Levers(encode_kv="on"))
    one, other = latents(rebuilt, [ask("a cat"), ask("a dog")], steps=1)
    assert (one - other).abs().max() > 0.05


@torch.inference_mode()
def test_the_cache_counts_the_keys_and_values_that_it_holds(spec: ModelSpec) -> None:
    rebuilt = load(spec, device="cpu", dtype="float32", levers=Levers(encode_kv="on", prompt_cache=1))
    text = rebuilt.text
    (made,) = text.encode([text.tokenize("a cat")]).values()
    widths = [module.start for module in rebuilt.denoiser.unet.modules() if hasattr(module, "stop")]
    assert widths[0] == 0
    assert len(widths) == len(set(widths))
    tokens, features = made.hidden.shape
    assert features > 80, "keys and values of every block, not the text itself"
    assert text.cache.nbytes == made.nbytes >= tokens * features * 4
    assert text.cache.max_bytes == 1 << 20
    for i in range((1 << 20) // made.nbytes + 5):
        text.encode([text.tokenize(str(i))])
    assert text.cache.nbytes <= 1 << 20


def test_attention_of_another_kind_is_refused_with_the_cure(spec: ModelSpec) -> None:
    unet = load(spec, device="cpu", dtype="float32").denoiser.unet
    blocks = [module for module in unet.modules() if type(module).__name__ == "BasicTransformerBlock"]
    blocks[1].attn2.residual_connection = True
    with pytest.raises(ModelError, match="--encode-kv off"):
        rebuild(unet, fuse=False, encode_kv=True)
    assert rebuild(unet, fuse=False, encode_kv=False) is None


@torch.inference_mode()
def test_shapes_are_counted_and_the_fastest_kernel_that_can_serve_is_chosen(
    pipeline32: Pipeline, ask: Ask
) -> None:
    rows = [pipeline32.prepare(0, ask())]
    pipeline32.encode(rows)
    with counted_shapes() as shapes:
        pipeline32.step(rows)
    assert sum(shapes.values()) == 2 * sum(
        type(module).__name__ == "BasicTransformerBlock" for module in pipeline32.denoiser.unet.modules()
    )
    asked: list[str] = []

    def clock(call: Callable[[], object]) -> float:
        call()
        asked.append("kernel")
        return 1.0 / len(asked)

    name, seconds = fastest(shapes, CPU, torch.float32, clock)
    assert "flash" in seconds
    assert "cudnn" not in seconds, "no such kernel on a CPU: left out"
    assert name == list(seconds)[-1]


def test_what_no_kernel_can_serve_falls_to_arithmetic() -> None:
    def never(call: Callable[[], object]) -> float:
        raise RuntimeError("no available kernel")

    assert fastest(Counter({((1, 1, 4, 8), (1, 1, 4, 8)): 1}), CPU, torch.float32, never) == ("math", {})


@pytest.mark.parametrize("name", ["flash", "cudnn", "efficient", "math", "auto"])
def test_a_kernel_that_cannot_serve_leaves_it_to_another(name: str) -> None:
    q = torch.randn(1, 2, 8, 16)
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    with kernel(name):
        found = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert torch.allclose(found, expected, atol=1e-5)

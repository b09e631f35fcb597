"""Each trainer takes a few steps on a tiny world, and what comes out loads as a pipeline."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn

from training import codes, decoder, export, generator, latents, listening, looks, loop, sharpen, text
from training import encoder as vae_encoder
from training.batches import Batches, Reader
from training.concepts import COLOUR_NAMES, CONCEPTS, STYLE_NAMES
from training.latents import CHANNELS, GRID, PLACED, Composer, Encoder


def test_the_decoder_ends_in_a_linear_map() -> None:
    """After the last block there is no activation, so the server may fold the rest into one convolution."""
    vae = decoder.build()
    layers = list(vae.decoder.layers)
    last = max(i for i, layer in enumerate(layers) if type(layer).__name__ == "AutoencoderTinyBlock")
    assert {type(layer) for layer in layers[last + 1 :]} == {nn.Upsample, nn.Conv2d}
    with torch.no_grad():
        assert vae.decode(torch.zeros(1, CHANNELS, 4, 4)).sample.shape == (1, 3, 64, 64)


def test_cached_latents_are_the_encoders(
    composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the generator trains on is the encoding of the composed picture."""
    monkeypatch.setattr(latents, "WASH", 0.0)
    drawn, targets = Batches(composer, encoder, several=0.6).draw(24, np.random.default_rng(0))
    assert {len(target.group) for target in targets} >= {0, 2, 3, 4}
    composed = [composer.target(*each) for each in zip(targets, drawn.crops.tolist(), strict=True)]
    pictures = latents.flatten(torch.stack(composed), latents.grounds(targets))
    assert drawn.code.shape == (24, codes.CODE)
    assert drawn.states.shape == (24, text.LENGTH, codes.STATES)
    assert len(drawn.crops.unique(dim=0)) > 1
    assert (drawn.x0 - encoder.pictures(pictures) * decoder.SCALING).abs().max() < 0.02


@pytest.mark.parametrize("style", range(len(STYLE_NAMES)), ids=STYLE_NAMES)
@pytest.mark.parametrize("group", [(), (codes.Placed(1, None, 3), codes.Placed(2, 4, 5))], ids=["one", "two"])
def test_styles_are_learnt_as_they_are_drawn(
    composer: Composer, encoder: Encoder, style: int, group: tuple[codes.Placed, ...]
) -> None:
    """A style's latents are the encoding of the picture in that style, on light and on dark, wherever it stands."""
    batches = Batches(composer, encoder)
    for background in (codes.WHITE, 0, COLOUR_NAMES.index("black")):
        target = codes.Target(None if group else 3, None, background, group, style)
        crop = (32, -32)
        ground = latents.grounds([target])
        cutout = composer.target(target, crop)[None]
        true = encoder.pictures(latents.flatten(cutout, ground)) * decoder.SCALING
        made = batches.latents([target], [crop], ground[:, :, None, None].expand(-1, -1, GRID, GRID))
        assert (made - true).abs().max() < 0.02


def test_parts_of_pictures_are_kept_while_there_is_room(
    composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was used last stays; a long run does not fill the memory."""
    monkeypatch.setattr("training.batches.KEPT", 2)
    batches = Batches(composer, encoder)
    parts = [batches.parts(concept, None, PLACED, codes.Target(concept)) for concept in (0, 1, 0, 2, 0, 1)]
    assert parts[0] is parts[2] is parts[4]
    assert parts[1] is not parts[5]
    assert torch.equal(parts[1], parts[5])
    assert batches.encoded.cache_info().currsize == 2


def test_on_a_card_captions_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read once, rightly or never again; on a CPU every batch has new ones."""
    tokenizer, rng, asked = text.load_tokenizer(), np.random.default_rng(0), list[int]()

    def batch(count: int) -> tuple[list[str], list[codes.Target]]:
        asked.append(count)
        return ["a dog"] * count, [codes.Target(1)] * count

    def decode(pooled: torch.Tensor, slots: torch.Tensor) -> list[codes.Target]:
        return [codes.Target(1 + i % 2) for i in range(len(pooled))]  # every other is misread

    monkeypatch.setattr(codes, "decode", decode)
    monkeypatch.setattr(codes, "held_out", lambda target: False)
    for card, expected in ((None, [8, 8, 8]), (2, [8, 8, 2, 2])):
        reader = Reader(text.build(tokenizer), tokenizer)
        monkeypatch.setattr(reader.captions, "batch", batch)
        reader.fresh = card
        asked.clear()
        for _ in expected:
            code, states, targets = reader.read(8, rng)
        assert asked == expected
        assert targets == [codes.Target(1)] * (8 if card else 4)
        assert code.shape == (len(targets), codes.CODE)
        assert states.shape == (len(targets), text.LENGTH, codes.STATES)


def test_what_looks_alike_is_said_alike(composer: Composer, encoder: Encoder) -> None:
    """Components are as near as pictures are; patterns are all as loud, and a UNet begins by hearing them so."""
    art = composer.art[PLACED].copy()
    art[0] = art[0][::-1] // 2  # all things but this one look the same here
    seen = looks.components(Composer({PLACED: art}, composer.mains), encoder, 64)
    assert seen.shape == (len(CONCEPTS), 64)
    assert (seen[0] - seen[1]).norm() > 10 * (seen[1] - seen[2]).norm()
    assert codes.PATTERNS.norm(dim=1).allclose(torch.tensor(codes.LOUD**0.5), rtol=1e-2)
    layer = generator.build().add_embedding.linear_1.weight.detach()[: generator.COMMON, : codes.THING]
    assert float((codes.PATTERNS @ layer.T).std()) == pytest.approx(0.5, rel=0.1)


def test_every_thing_has_a_number_of_its_own() -> None:
    """In the embedding that reaches all blocks; in groups too, less; and the step says nothing there."""
    unet = generator.build((16, 16, 16, 32, 32))
    group = codes.Target(group=(codes.Placed(7, None, 3), codes.Placed(9, None, 5)))
    code = codes.encode([*(codes.Target(i) for i in range(generator.OWN)), codes.Target(), group])
    said = torch.cat([code, torch.zeros(len(code), 6 * 32)], 1)
    with torch.no_grad():
        own = F.silu(unet.add_embedding(said))[:, generator.COMMON :]
        step = unet.time_proj(torch.tensor([float(generator.LOWEST)]))
        of_step = unet.time_embedding(step)[:, generator.COMMON :]
    things, nothing, both = own[: generator.OWN], own[-2], own[-1]
    assert (things.argmax(1) == torch.arange(generator.OWN)).all()
    assert (things.diagonal() > 13).all()
    assert nothing.abs().max() < 1
    assert set(both.topk(2).indices.tolist()) == {7, 9}
    # As many directions in which things differ as there are things, none of them faint.
    spread = torch.linalg.svdvals(things - things.mean(0))
    assert spread[1000] > 0.3 * spread[100]
    assert of_step.abs().max() == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_later_steps_look_like_the_samplers(steps: int) -> None:
    """What the training shows the network at its steps is what the scheduler does, between FIRST and LOWEST."""
    sampler = generator.scheduler()
    sampler.set_timesteps(steps)
    ends = generator.FIRST, generator.LOWEST if steps > 1 else generator.FIRST
    assert sampler.timesteps[[0, -1]].tolist() == pytest.approx(ends, abs=0.01)
    noise, x0 = torch.randn(2, 4, CHANNELS, 8, 8)
    x = noise * sampler.init_noise_sigma
    for t, sigma in zip(sampler.timesteps, sampler.sigmas, strict=False):
        seen = sampler.scale_model_input(x, t)
        low, high = int(t), min(int(t) + 1, generator.FIRST)
        assert generator.SIGMA[low] * 0.999 <= sigma <= generator.SIGMA[high] * 1.001
        assert torch.allclose(generator.seen(x0, noise, round(float(t))), seen, atol=0.02)
        x = sampler.step(x0, t, x).prev_sample
    assert torch.allclose(x, x0, atol=1e-5)


def test_later_steps_begin_with_what_the_network_draws(
    composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or with the truth, by their share; the first begins with noise alone."""
    learner, rng = painter(composer, encoder), np.random.default_rng(0)
    drawn = learner.batches.draw(2, rng)[0]
    monkeypatch.setattr(learner, "predict", lambda *_: torch.full_like(drawn.x0, 50.0))
    for later, simulated, start in ((1.0, 1.0, 50.0), (1.0, 0.0, float(drawn.x0.mean())), (0.0, 1.0, 0.0)):
        monkeypatch.setattr(generator, "SIMULATED", simulated)
        learner.later = later
        x, t = learner.noisy(drawn, rng)
        assert (t == generator.FIRST) == (later == 0)
        expected = generator.seen(torch.full_like(x, start), torch.zeros_like(x), t)
        assert float(x.mean()) == pytest.approx(float(expected.mean()), abs=0.5)


def painter(composer: Composer, encoder: Encoder) -> generator.Painter:
    """The generator's learner, tiny, from the same start every time."""
    torch.manual_seed(1)
    return generator.Painter(generator.build((32, 32, 64, 64, 64)), Batches(composer, encoder), 2)


def test_what_the_eye_sees_says_what_comes_often(
    composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the pictures that it looked at, the second half, and of no others."""
    learner = painter(composer, encoder)
    learner.batch, learner.later = 4, 0
    rng, before = np.random.default_rng(3), learner.batches.errors.copy()
    drawn, targets = learner.batches.draw(4, rng)
    monkeypatch.setattr(learner.batches, "draw", lambda *_: (drawn, targets))
    monkeypatch.setattr(
        learner, "distance", lambda made, true: ((made - true).abs().mean(), torch.tensor([7.0, 9.0]))
    )
    assert learner.step(0, 0.0, rng)["seen"] == 8
    for target, error in zip(targets, (None, None, 7.0, 9.0), strict=True):
        for thing in target.things:
            place = int(bool(target.group)), thing.concept
            told = before[place] if error is None else 0.8 * before[place] + 0.2 * error
            assert learner.batches.errors[place] == pytest.approx(told)


def test_a_run_that_is_resumed_ends_with_the_same_weights(
    tmp_path: Path, composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps draw their own chance: two in one go, or one and one; and the third is different."""
    monkeypatch.setattr(loop, "AVERAGED", 1)
    monkeypatch.setattr(loop, "plot", lambda *_: None)
    monkeypatch.setattr(decoder, "latest", lambda: None)
    loop.run(painter(composer, encoder), 2, tmp_path / "whole.pt")
    interrupted = painter(composer, encoder)
    ordinary, steps = interrupted.step, iter(range(9))

    def step(*given: Any) -> dict[str, float]:
        if next(steps) == 1:
            raise KeyboardInterrupt
        return ordinary(*given)

    monkeypatch.setattr(interrupted, "step", step)
    with pytest.raises(KeyboardInterrupt):
        loop.run(interrupted, 2, tmp_path / "parts.pt", save_every=1)
    for steps_in_all, alike in ((2, True), (3, False)):
        loop.run(painter(composer, encoder), steps_in_all, tmp_path / "parts.pt")
        whole, parts = (
            torch.load(tmp_path / name, weights_only=True)["learner"]["live"]
            for name in ("whole.pt", "parts.pt")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole) == alike


def test_every_trainer_and_the_export(
    tmp_path: Path, composer: Composer, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train all parts for a moment, resume one, assemble, save, load, draw."""
    monkeypatch.setattr(generator, "WIDTHS", (32, 32, 64, 64, 64))
    for module in (generator, decoder, text, vae_encoder, sharpen):
        monkeypatch.setattr(module, "CHECKPOINT", tmp_path / f"{module.__name__}.pt")
        monkeypatch.setattr(module, "SHIPPED", tmp_path / "nothing", raising=False)
    monkeypatch.setattr(text, "TOKENIZER", tmp_path / "tokenizer")
    text.train_tokenizer(captions=300).save_pretrained(text.TOKENIZER)
    parts = {"composer": composer, "encoder": encoder}

    listening.train(steps=1, batch=4, path=text.CHECKPOINT)
    decoder.train(steps=1, batch=2, edge=64, path=decoder.CHECKPOINT, **parts)
    for steps in (1, 2):  # the second goes on from the first
        generator.train(steps=steps, batch=2, path=generator.CHECKPOINT, **parts)
    sharpen.train(
        steps=1, batch=2, sources=(generator.CHECKPOINT, decoder.CHECKPOINT), path=sharpen.CHECKPOINT, **parts
    )
    vae_encoder.train(
        steps=1, batch=2, edge=64, path=vae_encoder.CHECKPOINT, composer=composer, linear=encoder
    )

    assert sharpen.current()
    pipeline = export.assemble()
    # Trained further, the generator leaves it behind.
    os.utime(generator.CHECKPOINT, (time.time() + 9,) * 2)
    assert not sharpen.current()
    export.save(pipeline, tmp_path / "model")
    packed = load_file(tmp_path / "model" / "text_encoder_2" / "model.safetensors")
    (tokens,) = (weight for name, weight in packed.items() if "token_embedding" in name)
    (positions,) = (weight for name, weight in packed.items() if "position_embedding" in name)
    assert (tokens.dtype, positions.dtype) == (torch.float8_e4m3fn, torch.float16)
    size = export.swap(tmp_path / "model", tmp_path / "shipped")
    assert size < export.LIMIT
    unasked = StableDiffusionXLPipeline.from_pretrained(tmp_path / "shipped")
    parts = (unasked.unet, unasked.vae, unasked.text_encoder, unasked.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}
    loaded = export.load(tmp_path / "shipped")
    picture = loaded(
        "a cat",
        num_inference_steps=1,
        guidance_scale=0.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert picture.shape == (512, 512, 3)

    # What nobody trained anew is taken from what ships; where nothing does, that is said.
    for module in (generator, decoder, text, vae_encoder, sharpen):
        monkeypatch.setattr(module, "CHECKPOINT", tmp_path / "none.pt")
    with pytest.raises(SystemExit, match="not all parts are there"):
        export.assemble()
    for module in (generator, decoder, text):
        monkeypatch.setattr(module, "SHIPPED", tmp_path / "shipped")
    again = export.assemble()
    for part in ("unet", "vae", "text_encoder_2"):
        before, after = (getattr(of, part).state_dict() for of in (loaded, again))
        assert all(torch.equal(before[name].float(), after[name].float()) for name in before), part

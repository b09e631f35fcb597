"""Our own Muse: the recipe against cases worked out by hand, runs that resume, and the folder in other hands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AmusedPipeline, UVit2DModel

from onestroke.core import GenerationRequest
from onestroke.models.choosing import resolve
from onestroke.pipelines.loading import load
from onestroke.pipelines.muse.pipeline import MusePipeline
from training import text
from training.codes import HELD_BACKGROUNDS, Target
from training.grammar import parse
from training.latents import Composer
from training.muse import codec, export, masked, pictures, sheets
from training.muse.masked import MASK, Texts, World
from training.muse.pictures import LARGE, SMALL, THINGS, Pictures, View

TINY: dict[str, int] = {**masked.WIDTHS, "num_res_blocks": 1, "num_hidden_layers": 1}
WIDTHS = (8, 8, 8, 8)


@pytest.fixture(scope="module")
def world(composer: Composer) -> World:
    """Discs, and an untrained codec."""
    return World(codec.build(WIDTHS).eval(), Pictures(composer))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """An untrained text encoder."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer = text.CLIPTokenizer(
        vocab={letter: i for i, letter in enumerate([*map(chr, range(97, 123)), text.BOS, text.EOS])},
        merges=[],
        model_max_length=text.LENGTH,
        pad_token=text.EOS,
    )
    tokenizer.save_pretrained(folder / "tokenizer_2")
    text.CLIPTextModelWithProjection(text.config(tokenizer, 16, 2, 2)).save_pretrained(
        folder / "text_encoder_2"
    )
    return Texts(folder)


def test_a_picture_is_the_thing_on_its_background_either_way_round(composer: Composer) -> None:
    """The disc's colour in the middle, the background's at the corner; the mirror image is mirrored."""
    made = Pictures(composer)
    left = torch.zeros_like(made.things[THINGS[0]])
    left[:, :, : LARGE // 2] = made.things[THINGS[0]][:, :, : LARGE // 2]
    made.things[THINGS[0]] = left
    one, other = made.paint([View(Target(THINGS[0], None, 0), way) for way in (False, True)], SMALL)
    assert torch.allclose(one[:, SMALL // 2, SMALL // 4] * 255, torch.tensor([200.0, 60.0, 30.0]), atol=1)
    assert torch.equal(one[:, 0, 0], torch.from_numpy(pictures.PALETTE[0]))
    assert torch.allclose(one.flip(-1), other, atol=1e-6)
    assert not torch.allclose(one, other, atol=0.1)


def test_views_keep_off_what_is_held_out_and_captions_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    views = [pictures.sample(rng) for _ in range(200)]
    assert {view.target.concept for view in views} == set(THINGS)
    assert not any(view.target.background in HELD_BACKGROUNDS[view.target.concept or 0] for view in views)
    assert {view.mirrored for view in views} == {False, True}
    for view in views[:10]:
        assert all(parse(caption) == view.target for caption in pictures.captions(view.target))


def test_masks_follow_the_cosine() -> None:
    """At u the share is cos(pi u / 2); its mean is 2 / pi; at least one token is hidden, where is by chance."""

    class Given:
        def __init__(self, u: float) -> None:
            self.u, self.rng = u, np.random.default_rng(0)

        def random(self, shape: Any) -> Any:
            return np.full(shape, self.u) if isinstance(shape, int) else self.rng.random(shape)

    for u, count in ((0.0, 64), (2 / 3, 32), (0.9999, 1)):
        hidden = masked.mask((3, 8, 8), Given(u))  # type: ignore[arg-type]
        assert hidden.sum((1, 2)).tolist() == [count] * 3
    many = masked.mask((4000, 8, 8), np.random.default_rng(1)).float()
    assert many.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    assert many.mean(0).std() < 0.02


def test_the_loss_is_the_cross_entropy_of_hidden_tokens_alone() -> None:
    """Two tokens of four are hidden: one of odds 3 to 1, one of even odds; the others are as wrong as can be."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = math.log(3)
    logits[0, 0, 1] = 50.0
    tokens = torch.tensor([[[0, 1], [1, 1]]])
    hidden = torch.tensor([[[True, True], [False, False]]])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert masked.loss(logits, tokens, hidden).item() == pytest.approx(expected)


def test_a_codebook_follows_what_chooses_it_and_none_is_dead() -> None:
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [0.0, 8.0], [8.0, 0.0], [8.0, 8.0]])
    latents = corners.repeat(50, 1) + 0.1 * torch.randn(200, 2)
    book = codec.Codebook(torch.full((4, 2), 99.0))
    book.start(latents)
    assert sorted(book.entries.round().abs().tolist()) == sorted(corners.tolist())
    book.entries[0] = book.sums[0] = 1000.0
    moved = sum(book.follow(latents, codec.nearest(latents, book.entries)) for _ in range(120))
    assert moved > 0
    assert len(codec.nearest(latents, book.entries).unique()) == 4


def test_gradients_go_straight_through_the_tokens() -> None:
    entries = torch.tensor([[0.0], [1.0]])
    latents = torch.tensor([[[[0.2, 0.9]]]], requires_grad=True)
    chosen, tokens, _ = codec.quantized(latents, entries)
    (3 * chosen).sum().backward()
    assert chosen.flatten().tolist() == [0.0, 1.0]
    assert tokens.tolist() == [0, 1]
    assert latents.grad is not None
    assert latents.grad.flatten().tolist() == [3.0, 3.0]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("which", ["codec", "base", "super"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    which: str, world: World, texts: Texts, tmp_path: Path
) -> None:
    """The same weights, to the bit."""

    def learner() -> Any:
        if which == "codec":
            return codec.Learner(codec.build(WIDTHS), world.pictures, batch=2)
        stage: masked.Stage = "base" if which == "base" else "super"
        network = masked.build(stage, texts, TINY)
        return masked.Learner(stage, network, world, texts, batch=2)

    def steps(one: Any, first: int, last: int) -> None:
        for i in range(first, last):
            torch.manual_seed(i)
            one.step(i, i / 4, np.random.default_rng([0, i]))

    whole, stopped, resumed = learner(), learner(), learner()
    steps(whole, 0, 4)
    steps(stopped, 0, 2)
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    steps(resumed, 2, 4)
    for mine, theirs in zip(_tensors(whole.state_dict()), _tensors(resumed.state_dict()), strict=True):
        assert torch.equal(mine, theirs)


def _tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [each for value in values for each in _tensors(value)]


@pytest.fixture(scope="module")
def folder(world: World, texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Muse, exported."""
    made = tmp_path_factory.mktemp("muse") / "model"
    base, larger = (masked.build(stage, texts, TINY) for stage in masked.STAGES)
    assert isinstance(base, UVit2DModel)
    with torch.no_grad():
        base.mlm_layer.conv2.weight.mul_(4)  # surer than chance, so that what it is told shows
    export.write(world.vq, base, larger, texts, made)
    return made


def test_diffusers_and_the_server_draw_the_same_from_the_folder(folder: Path) -> None:
    theirs = AmusedPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = load(resolve(str(folder)), device="cpu", dtype="float32")
    assert isinstance(ours, MusePipeline)
    request = GenerationRequest(
        ours.spec.name, "cat", 3, sampler="amused", steps=5, guidance_scale=3.0, width=SMALL, height=SMALL
    )
    row = ours.prepare(0, request)
    ours.encode([row])
    while not row.finished:
        ours.step([row])
    ((_, (picture,)),) = ours.decode([row])
    drawn = theirs(
        "cat",
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    assert picture.shape == (SMALL, SMALL, 3)
    assert len(row.tokens.unique()) > 3
    assert np.abs(picture - (drawn * 255).round()).max() <= 1


def test_the_folder_draws_large_pictures_and_sheets_judge_them(folder: Path, world: World) -> None:
    muse, truth = sheets.Muse(folder), sheets.Truth(world.pictures)
    assert muse.pipeline.spec.sizes == ((LARGE, LARGE), (SMALL, SMALL))
    row = muse.row("cat", 1, steps=4)
    assert muse.draw([row]).shape == (1, LARGE, LARGE, 3)
    assert muse.small(row).shape == (LARGE, LARGE, 3)
    assert (row.tokens < MASK).all()
    # every thing is a disc here: the first is nearest, and a plain background is none
    assert truth.recognised(truth(Target(THINGS[0], None, 3)), Target(THINGS[0], None, 3))
    assert not truth.recognised(truth(Target(THINGS[0], None, 3)), Target(THINGS[1], None, 3))
    plain = np.zeros((LARGE, LARGE, 3), np.uint8) + np.uint8(pictures.PALETTE[0] * 255)
    assert not truth.recognised(plain, Target(THINGS[0], None, 0))


def test_every_sheet_is_drawn_and_figures_are_told(
    folder: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "STEPS", 2)
    monkeypatch.setattr(sheets, "EDIT_STEPS", 2)
    for name in ("PROMPTS", "CHANGES", "THINGS"):
        monkeypatch.setattr(sheets, name, getattr(sheets, name)[:1])
    report = sheets.run(folder, tmp_path, world.pictures)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"muse-{kind}.webp" for kind in ("text", "paint", "edit", "larger")),
        "muse.json",
    }
    assert report["base, held-out backgrounds"]["thing"]["n"] == 2


def test_a_learners_sheet_shows_what_it_draws(world: World, texts: Texts) -> None:
    """Both stages: two seeds of eight prompts; the second below the true small pictures, twice as large."""
    base, larger = (masked.Learner(s, masked.build(s, texts, TINY), world, texts) for s in masked.STAGES)
    assert base.sheet().size == (8 * SMALL, 2 * SMALL)
    assert larger.sheet().size == (8 * LARGE, 3 * LARGE)

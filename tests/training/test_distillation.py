"""Teacher and students: losses against cases worked out by hand, the process against diffusers'; runs resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training import ablation, add, codes, decoder, diffusion, dmd2, generator, loop, measures, teacher
from training.diffusion import SCHEDULE, STUDENT_STEPS, THINGS, World
from training.judge import FEATURES, DualEncoder
from training.latents import CHANNELS, GRID, Composer, Encoder, Scene

WIDTHS = (16, 16, 16, 32, 32)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A small untrained network."""
    torch.manual_seed(3)
    return generator.build(WIDTHS)


@pytest.fixture
def world(composer: Composer, encoder: Encoder) -> World:
    """The small world with discs in it."""
    return World(composer, encoder)


def given(size: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, steps, codes and crops."""
    torch.manual_seed(1)
    x = torch.randn(size, CHANNELS, GRID, GRID)
    return x, torch.tensor([999, 250][:size]), torch.rand(size, codes.CODE), torch.zeros(size, 2)


def test_adversarial_losses() -> None:
    """ADD's equations 2 and 3 on two heads."""
    real, fake = (
        [torch.tensor([2.0, 0.0]), torch.tensor([1.0])],
        [torch.tensor([0.0, -2.0]), torch.tensor([3.0])],
    )
    assert add.generator_loss(fake).item() == pytest.approx((1.0 - 3.0) / 2)
    assert add.discriminator_loss(real, fake).item() == pytest.approx(((0.5 + 0.5) + (0 + 4)) / 2)


def test_r1_penalty() -> None:
    """A head that triples its input has a gradient of 3 in each of its 8 entries."""
    maps = torch.randn(2, 2, 2, 2, requires_grad=True)
    assert add.penalty([3 * maps.sum(1)], [maps]).item() == pytest.approx(9 * 8)


def test_score_distillation() -> None:
    """ADD's equation 4: each picture's mean squared error counts alpha_t; the teacher is not taught."""
    made, taught = torch.zeros(2, 1, 2, 2, requires_grad=True), torch.ones(2, 1, 2, 2, requires_grad=True)
    t = torch.tensor([100, 900])
    taught = torch.cat([taught[:1], 3 * taught[1:]])
    loss = add.distillation_loss(made, taught, t)
    alpha = SCHEDULE.alpha.flatten()
    assert loss.item() == pytest.approx((alpha[100].item() * 1 + alpha[900].item() * 9) / 2)
    loss.backward()
    assert made.grad is not None
    assert made.grad[0, 0, 0, 0].item() == pytest.approx(alpha[100].item() * -2 / 4 / 2)


def test_distribution_matching() -> None:
    """DMD's direction, brought to size picture by picture, is the loss's gradient over the number of entries."""
    x = torch.stack([torch.ones(1, 2, 2), 4 * torch.ones(1, 2, 2)]).requires_grad_()
    fake, real = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, 1, 2, 2)
    gradient = dmd2.matching_gradient(x.detach(), fake, real)
    assert gradient[:, 0, 0, 0].tolist() == pytest.approx([0.5 / 1, 0.5 / 4])
    loss = dmd2.matching_loss(x, gradient)
    loss.backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, gradient / x.numel())
    assert not dmd2.matching_gradient(x.detach(), real, real).any()


def test_gan_losses_of_dmd2() -> None:
    """Softplus: ln 2 where the head knows nothing."""
    zero, sure = torch.zeros(3), torch.full((3,), 50.0)
    assert dmd2.fool_loss(zero).item() == pytest.approx(math.log(2))
    assert dmd2.tell_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert dmd2.tell_loss(sure, -sure).item() == pytest.approx(0, abs=1e-6)


def test_the_schedule_ends_in_noise_and_can_be_solved() -> None:
    """Zero terminal SNR; x0, v and the noise are three views of the same."""
    x0, t, *_ = given()
    noise = torch.randn_like(x0)
    assert SCHEDULE.alpha[999].item() < 3e-4
    assert torch.allclose(SCHEDULE.alpha**2 + SCHEDULE.sigma**2, torch.ones(1))
    x, v = SCHEDULE.noisy(x0, noise, t), SCHEDULE.velocity(x0, noise, t)
    assert torch.allclose(SCHEDULE.x0(v, x, t), x0, atol=1e-4)
    assert torch.allclose(SCHEDULE.noise(x0, x, t), noise, atol=1e-4)


def test_one_step_is_the_samplers(unet: UNet2DConditionModel) -> None:
    """What a student is trained to do in one step is what diffusers' pipeline does with it."""
    noise, _, code, crops = given()
    sampler = diffusion.scheduler()
    sampler.set_timesteps(1)
    x = noise * sampler.init_noise_sigma
    with torch.no_grad():
        scaled = sampler.scale_model_input(x, sampler.timesteps[0])
        output = unet(scaled, sampler.timesteps[0], **diffusion.conditions(code, crops)).sample
        theirs = sampler.step(output, sampler.timesteps[0], x).prev_sample
        ours = diffusion.fresh(unet, noise, code, crops, (999,))
    assert int(sampler.timesteps[0]) == 999
    assert (theirs - ours).abs().max() < 0.05 * theirs.abs().max()  # bf16


def test_students_visit_the_samplers_four_steps() -> None:
    """999, 749, 499 and 249."""
    sampler = diffusion.scheduler()
    sampler.set_timesteps(4)
    assert tuple(int(t) for t in sampler.timesteps) == STUDENT_STEPS


def test_the_solvers_reach_what_a_perfect_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that always sees the same latents, any number of steps ends there."""
    x0, _, code, crops = given()
    seen = []

    def denoise(_unet: Any, x: Tensor, t: Tensor, code: Tensor, _crops: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return x0.repeat(len(x) // len(x0), 1, 1, 1) * (1 + code.any(1).float().view(-1, 1, 1, 1))

    monkeypatch.setattr(diffusion, "denoise", denoise)
    net: Any = None
    assert torch.equal(diffusion.ddim(net, torch.randn_like(x0), code, crops, 4), 2 * x0)
    assert seen == [999, 749, 499, 249]


def test_features_are_the_networks_own(unet: UNet2DConditionModel) -> None:
    """The way down alone gives what the whole forward has in its middle."""
    x, t, code, crops = given()
    caught: list[Tensor] = []
    unet.mid_block.register_forward_hook(lambda *parts: caught.append(parts[2]))
    with torch.no_grad():
        diffusion.velocity(unet, x, t, code, crops)
        maps = diffusion.features(unet, x, t, code, crops)
    assert torch.equal(caught[0].float(), maps[-1])
    assert [tuple(each.shape[1:]) for each in maps] == [
        (16, 32, 32),
        (16, 16, 16),
        (16, 8, 8),
        (32, 4, 4),
        (32, 2, 2),
    ]


def test_the_world_has_64_things_and_keeps_what_is_held_out(world: World) -> None:
    """No held-out background is ever drawn; things look both ways."""
    assert len(set(THINGS)) == 64
    rng = np.random.default_rng(0)
    assert not any(codes.held_out(diffusion.target(rng)) for _ in range(500))
    target = codes.Target(THINGS[0])
    world.latents([target] * 2, [(0, 0)] * 2, torch.ones(2, 3, GRID, GRID), [False, True])
    batches: Any = world.latents.__self__  # type: ignore[attr-defined]
    assert batches.encoded.cache_info().currsize == 2


def learners(unet: UNet2DConditionModel, world: World) -> dict[str, Callable[[], loop.Learner]]:
    """Fresh learners of every kind, all from the same weights."""
    import copy

    return {
        "teacher": lambda: teacher.Teacher(copy.deepcopy(unet), world, 2),
        "add": lambda: add.Student(copy.deepcopy(unet), world, "both", 2),
        "dmd2": lambda: dmd2.Student(copy.deepcopy(unet), world, 2),
    }


@pytest.mark.parametrize("kind", ["teacher", "add", "dmd2"])
def test_a_killed_run_resumes_to_the_same_weights(
    kind: str, unet: UNet2DConditionModel, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps in one go, and two with a kill between them, on one thread: the same weights, the same curves."""
    monkeypatch.setattr(loop, "AVERAGED", 1)
    monkeypatch.setattr(loop, "plot", lambda *_: None)
    monkeypatch.setattr(dmd2, "UPDATES", 1)
    make = learners(unet, world)[kind]
    weights, curves = [], []
    for killed in (False, True):
        path = tmp_path / f"{killed}.pt"
        learner = make()
        monkeypatch.setattr(learner, "sheet", lambda: None)
        if killed:
            step = learner.step

            def fails(index: int, *rest: Any, step: Any = step) -> dict[str, float]:
                if index == 1:
                    raise KeyboardInterrupt
                said: dict[str, float] = step(index, *rest)
                return said

            monkeypatch.setattr(learner, "step", fails)
            with pytest.raises(KeyboardInterrupt):
                loop.run(learner, 2, path, save_every=1)
            learner = make()
            monkeypatch.setattr(learner, "sheet", lambda: None)
        curves.append(loop.run(learner, 2, path, save_every=1))
        weights.append(torch.load(path, weights_only=True)["learner"]["live"])
    assert curves[0] == curves[1]
    assert [point["step"] for point in curves[0]] == [1, 2]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], value) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("losses", ["adversarial", "distillation", "regression"])
def test_ablations_leave_out_what_they_say(
    losses: add.Losses, unet: UNet2DConditionModel, world: World
) -> None:
    """Each kind of student reports its own losses, and only an adversary trains heads."""
    student = add.Student(unet, world, losses, 2)
    before = [p.clone() for p in student.heads.parameters()]
    said = student.step(0, 0.0, np.random.default_rng(0))
    moved = any(not torch.equal(a, b) for a, b in zip(before, student.heads.parameters(), strict=True))
    assert ("adversarial" in said) == moved == (losses == "adversarial")
    assert ("distillation" in said) == (losses == "distillation")


class Blank:
    """A decoder that shows nothing, at once."""

    def decode(self, latents: Tensor) -> Any:
        """(B, 24, 32, 32) to (B, 3, 512, 512)."""
        return SimpleNamespace(sample=latents.new_zeros(len(latents), 3, 512, 512))


def test_weights_and_sheets(
    unet: UNet2DConditionModel, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint gives back the averaged weights; a sheet has a row per number of steps and seed."""
    student = add.Student(unet, world, "regression", 2)
    path = tmp_path / "add-regression.pt"
    monkeypatch.setattr(generator, "WIDTHS", WIDTHS)
    monkeypatch.setattr(decoder, "shipped_vae", Blank)
    loop.run(student, 1, path)
    loaded = diffusion.load(path)
    student.average.swap()
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), student.unet.parameters(), strict=True))
    assert student.sheet().size == (8 * 128, 4 * 128)
    assert (tmp_path / "add-regression-00001.webp").exists()
    with pytest.raises(SystemExit, match="nowhere"):
        diffusion.load(tmp_path / "nowhere.pt")


def test_the_table_measures_true_pictures_as_true(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right backgrounds, next to no error; half a thing is told from its mirror image; the row is laid out."""
    monkeypatch.setattr(ablation, "THINGS", THINGS[:2])
    monkeypatch.setattr(ablation, "ROWS", ())
    cutout = composer.cutout

    def half(scene: Scene) -> torch.Tensor:
        whole = cutout(scene)
        whole[:, 256:] = 0
        return whole

    monkeypatch.setattr(composer, "cutout", half)
    truth = ablation.Truth(composer)
    pictures = truth.draw(0)
    reference = np.random.default_rng(0).normal(size=(8, FEATURES))
    row = ablation.measure(pictures, DualEncoder(), truth, reference, measures.detail(pictures))
    assert row["background"]["share"] == 1
    assert row["PSNR"] > 25
    assert row["decided"] > 0.9
    assert row["detail"] == 1
    assert ablation.table({"art": row}).count("| art |") == 1


def test_heads_listen_to_the_text() -> None:
    """The same features with another code score otherwise."""
    torch.manual_seed(0)
    head: nn.Module = add.Head(32)
    maps = torch.randn(1, 32, 4, 4)
    one, other = (head(maps, torch.eye(codes.CODE)[i : i + 1]) for i in (0, 1))
    assert one.shape == (1, 4, 4)
    assert not torch.allclose(one, other)

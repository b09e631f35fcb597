"""The judge that is trained apart, and the figures: each against a case worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import evaluate, examine, judge, loop, measures
from training.codes import Placed, Target
from training.concepts import CONCEPTS, NAMES
from training.phrases import LEXICON


@pytest.fixture(scope="module")
def scenes() -> judge.Scenes:
    """Stands for the icon sets: concept i is a square of a colour of its own."""
    art = torch.zeros(1, len(CONCEPTS), 4, judge.EDGE, judge.EDGE)
    art[..., 8:-8, 8:-8] = 1.0
    hues = torch.rand(len(CONCEPTS), 3, generator=torch.Generator().manual_seed(0))
    art[0, :, :3] *= hues[:, :, None, None]
    return judge.Scenes(art)


def test_scenes_know_what_they_show(scenes: judge.Scenes) -> None:
    """Truths are probabilities; pictures with one thing have one, with two different ones two halves."""
    pictures, things, count, background = scenes.batch(64, np.random.default_rng(0))
    assert pictures.shape == (64, 3, judge.EDGE, judge.EDGE)
    assert torch.allclose(things.sum(1), torch.ones(64))
    assert (things[count == 0, len(CONCEPTS)] == 1).all()
    assert (things[count == 1].amax(1) == 1).all()
    assert things.eq(0.5).any()
    calm, _, _, ground = scenes.batch(64, np.random.default_rng(1), harsh=False)
    corners = calm[:, :, :3, :3].mean((2, 3))
    assert (corners - torch.from_numpy(judge.PALETTE)[ground]).abs().max() < 0.2
    assert background.max() < len(judge.BACKGROUNDS)


def test_a_thing_is_placed_where_it_is_put() -> None:
    """Half as large, right of the middle: its left edge is the page's middle."""
    full = torch.ones(1, 4, judge.EDGE, judge.EDGE)
    one, middle = np.ones(1), judge.EDGE // 2
    moved = judge.place(full, 0.5 * one, 0 * one, 0.5 * one, 0 * one, one)[0, 0]
    assert moved[middle, middle + 2 : -2].min() == 1
    assert moved[:, : middle - 2].max() == 0
    assert moved[: middle // 2 - 2].max() == 0


def test_the_judge_learns_and_resumes(
    scenes: judge.Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps lower the loss; going on from a checkpoint is going on; answers are probabilities."""
    monkeypatch.setattr(loop, "AVERAGED", 2)
    learner = judge.Learner(scenes, batch=16)
    path = tmp_path / "judge.pt"
    curves = loop.run(learner, 20, path, save_every=10, sheet_every=1000)
    assert curves[-1]["count"] < curves[0]["count"]
    assert path.with_suffix(".png").exists()
    trained = judge.load(path)
    features = trained.pictures(torch.rand(3, 3, 128, 128))
    assert features.shape == (3, judge.FEATURES)
    assert torch.allclose(trained.ask(features, NAMES).exp().sum(1), torch.ones(3))
    assert set(judge.accuracy(trained, scenes, batches=1)) == {
        "one thing",
        "both of two",
        "count",
        "background",
    }
    assert loop.run(learner, 20, path) == curves  # nothing is left to do


def test_captions_share_their_letters() -> None:
    """Words alike have tokens alike; the hash does not depend on the process."""
    assert set(judge.tokens("cat")) & set(judge.tokens("cats"))
    assert judge.tokens("a cat") == judge.tokens("A  CAT")


def test_frechet_distance_of_shifted_and_stretched_sets() -> None:
    """A shift counts its square; a stretch by two of unit variance counts (2 - 1)^2 for each dimension."""
    x = np.random.default_rng(0).normal(size=(4000, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    assert measures.frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert measures.frechet(x, x + np.array([3.0, 0, 0])) == pytest.approx(9, rel=1e-6)
    assert measures.frechet(x, 2 * x) == pytest.approx(3, rel=1e-6)


def test_intervals() -> None:
    """8 of 10, as the tables have it; all and none touch the ends."""
    assert measures.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert measures.clopper_pearson(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert measures.clopper_pearson(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert measures.clopper_pearson(10, 10)[1] == 1
    assert measures.wilson(0, 0) == (0, 1)
    assert measures.share([True, False])["share"] == 0.5


def test_a_difference_of_the_same_cases() -> None:
    """Ten of a hundred got worse, four better; where none differs the interval still has a width."""
    before = [True] * 10 + [False] * 4 + [True] * 86
    after = [False] * 10 + [True] * 90
    found = measures.paired(before, after)
    assert found["difference"] == -0.06
    centre, spread = -6 / 102, 1.96 * (15 - 36 / 102) ** 0.5 / 102
    assert found["interval"] == pytest.approx([centre - spread, centre + spread], abs=1e-4)
    assert measures.paired(before, before) == {"n": 100, "difference": 0.0, "interval": [-0.0192, 0.0192]}


def test_facing_tells_a_picture_from_its_mirror_image_and_a_mixture() -> None:
    """-1, 1 and 0."""
    left = np.zeros((8, 8, 3), np.uint8)
    left[:, :4] = 200
    right = left[:, ::-1]
    mixed = np.full_like(left, 100)
    assert [measures.facing(p, left, right) for p in (left, right, mixed)] == [-1, 1, 0]


def test_detail_and_diversity() -> None:
    """A flat picture has no detail; seeds that look alike no diversity; opposite ones 2."""
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    stripes = flat.copy()
    stripes[:, :, ::2] = 0
    assert measures.detail(flat) == pytest.approx(0, abs=1e-3)  # a product's last bits differ by its place
    assert measures.detail(stripes) == pytest.approx(2 * 90, rel=1e-3)
    x = torch.randn(3, 1, 4)
    assert measures.feature_diversity(x.repeat(1, 2, 1)) == pytest.approx(0, abs=1e-6)
    assert measures.feature_diversity(torch.cat([x, -x], 1)) == pytest.approx(2)


def test_the_corners_tell_the_background() -> None:
    """Whatever stands in the middle."""
    picture = np.full((512, 512, 3), judge.PALETTE[3] * 255, np.uint8)
    picture[100:400, 100:400] = 255
    assert measures.corner_colour(picture) == 3


def test_any_right_picture_of_a_synonym_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read counts if people take it for right; where it is not, the first of what they do is asked for."""
    said = [
        *(Target(2), Target(1), Target(None)),
        Target(None, None, group=(Placed(2, None, 3), Placed(2, None, 5))),  # two of them
        Target(None, None, group=(Placed(2, None, 3), Placed(1, None, 5))),
    ]
    monkeypatch.setattr(evaluate, "UNTAUGHT", dict.fromkeys("abcde", (0, 2)))
    monkeypatch.setattr(evaluate.text, "understood", lambda *_: said)
    found = evaluate.untaught(None, None)  # type: ignore[arg-type]
    assert found == [(True, 2), (False, 0), (False, 0), (True, 2), (False, 0)]


def test_untaught_synonyms_are_untaught_and_goals_can_be_missed() -> None:
    """No list of the training's holds them; a needed goal that is missed fails, another does not."""
    assert not set(examine.UNTAUGHT) & set(LEXICON)
    assert all(examine.UNTAUGHT.values())
    report = {goal: {"share": 1.0} for goal in ("names", "held-out: thing", "held-out: background")}
    report |= {
        goal: {"share": 1.0} for goal in ("one step", "four steps", "synonyms never taught", "counting")
    }
    told = {**report, "two things: two seen": {"share": 0.8}, "four steps": {"share": 0.9}, "diversity": 0.2}
    text, passed = examine.verdict(told)
    assert passed
    assert "not reached" in text
    for missed in ("names", "synonyms never taught"):
        text, passed = examine.verdict({**told, missed: {"share": 0.5}})
        assert not passed
        assert "MISSED" in text

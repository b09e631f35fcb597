"""The rule of a step is AmusedScheduler's, row by row, and the paper's where diffusers has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AmusedScheduler

from onestroke.errors import ModelError
from onestroke.pipelines.muse.sampling import Draws, Rule, rule_of, steps_of, unmask

MASK = 11
CODEBOOK = 9


def logits_of(seed: int, n: int = 1, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.randn(n, CODEBOOK, height, width, generator=torch.Generator().manual_seed(seed)) * 2


def masked(n: int = 1, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.full((n, height, width), MASK)


def test_draws_are_those_of_multinomial() -> None:
    probabilities = logits_of(1).flatten(2).mT.softmax(-1)[0]
    theirs = torch.Generator().manual_seed(5)
    drawn = torch.multinomial(probabilities, 1, generator=theirs)[:, 0]
    mine = Draws(5)
    assert torch.equal((probabilities / mine.exponential(*probabilities.shape)).argmax(-1), drawn)
    assert torch.equal(mine.uniform(3), torch.zeros(3).uniform_(0, 1, generator=theirs))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 3, 12, 50])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_every_step_is_that_of_amuseds_scheduler(schedule: Any, steps: int, share: float) -> None:
    """50 steps are more than there are tokens: then one is drawn again and again."""
    scheduler = AmusedScheduler(MASK, schedule)
    scheduler.set_timesteps(steps)
    generator, draws = torch.Generator().manual_seed(3), Draws(3)
    tokens = masked()
    tokens[0, int(share * 5) :] = 4 if share < 1 else MASK
    given = tokens != MASK
    share = float((tokens == MASK).sum() / tokens.numel())
    for i, (timestep, step) in enumerate(
        zip(scheduler.timesteps, steps_of(Rule(MASK, schedule), steps), strict=True)
    ):
        expected = scheduler.step(logits_of(i), timestep, tokens, share, generator).prev_sample
        tokens = unmask(logits_of(i), tokens, [step], [share], [draws], MASK)
        assert torch.equal(tokens, expected), f"step {i}"
    assert not (tokens == MASK).any()
    assert (tokens[given] == 4).all()


def test_rows_at_any_step_of_any_schedule_are_the_rows_they_are_alone() -> None:
    cosine, linear = steps_of(Rule(MASK), 12), steps_of(Rule(MASK, "linear"), 3)
    steps = [cosine[0], linear[1], cosine[11], cosine[5]]
    tokens = masked(4)
    tokens[1:, 2:] = 3
    shares = [1.0, 0.4, 1.0, 0.7]
    logits = logits_of(0, 4)
    together = unmask(logits, tokens, steps, shares, [Draws(seed) for seed in range(4)], MASK)
    for i in range(4):
        alone = unmask(
            logits[i : i + 1], tokens[i : i + 1], steps[i : i + 1], shares[i : i + 1], [Draws(i)], MASK
        )
        assert torch.equal(together[i : i + 1], alone)


def test_the_mask_falls_along_the_cosine_and_guidance_is_constant_unless_it_is_ramped() -> None:
    assert [round(step.masked, 4) for step in steps_of(Rule(MASK), 3)] == [0.866, 0.5, 0.0]
    assert [step.temperature for step in steps_of(Rule(MASK), 3)] == [2.0, 1.0, 0.0]
    assert [step.guidance for step in steps_of(Rule(MASK), 3)] == [1.0, 1.0, 1.0]
    assert [step.guidance for step in steps_of(Rule(MASK, ramp=True), 3)] == [0.0, 0.5, 1.0]
    assert [step.guidance for step in steps_of(Rule(MASK, ramp=True), 1)] == [1.0]


def test_a_rule_is_read_from_the_schedulers_configuration() -> None:
    assert rule_of(AmusedScheduler(MASK, "linear").config) == Rule(MASK, "linear")
    assert rule_of({"mask_token_id": MASK, "guidance_schedule": "linear"}).ramp


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ({"mask_token_id": None}, "mask_token_id"),
        ({"masking_schedule": "sine"}, "masking_schedule is 'sine'"),
        ({"guidance_schedule": "sine"}, "guidance_schedule is 'sine'"),
    ],
)
def test_what_is_not_known_of_a_scheduler_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        rule_of({"mask_token_id": MASK, **values})

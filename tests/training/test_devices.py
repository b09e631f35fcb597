"""Each trainer's step happens on its device, where a tensor that was left behind is an error.

Torch's `meta`, which has no memory, stands for a card; what a step reads back from it are zeros here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training import decoder, generator, listening, loop, sharpen, text
from training import encoder as vae_encoder
from training.batches import Batches, Reader
from training.decoder import Crops
from training.latents import Composer, Encoder

CARD = "meta"
MOVES = {torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
"""What a card does with tensors that are not on it."""


class Apart(TorchDispatchMode):
    """An operation on tensors of two devices fails, as on a card: `meta` lets products and convolutions pass."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Numbers may come from anywhere."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim]
        devices = {x.device for x in tensors}
        assert len(devices) < 2 or func in MOVES, f"{func} of tensors on {devices}"
        return func(*args, **(kwargs or {}))


class Home(torch.autograd.Function):
    """`Tensor.cpu` of a card that holds zeros."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Zeros on the CPU."""
        return torch.zeros(x.shape, dtype=x.dtype)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """A gradient goes back to the card."""
        return gradients[0].to(CARD)


class Stream:
    """A stream that has always ended."""

    def wait_stream(self, _: Stream) -> None:
        """It has."""


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA has and `meta` has not."""

    def read(name: str, zeros: Callable[[Tensor], Any]) -> None:
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda x: zeros(x) if x.is_meta else real(x))

    read("cpu", Home.apply)
    read("item", lambda x: 0.0)
    read("__float__", lambda x: 0.0)
    read("tolist", lambda x: torch.zeros(x.shape, dtype=x.dtype).tolist())
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch, "compile", lambda module: module)
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **rates: plain(*args, **rates))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())


def the_text(_: Composer, __: Encoder) -> loop.Learner:
    """A learner of what prompts mean."""
    tokenizer = text.load_tokenizer()
    model = text.build(tokenizer)
    model.set_attn_implementation("eager")
    return listening.Listener(model.to(CARD), tokenizer, listening.Writers(16, 0, 0))


def the_decoder(composer: Composer, linear: Encoder) -> loop.Learner:
    """A learner of pictures."""
    return decoder.Sharpener(decoder.build().to(CARD), Crops(composer, linear, 160, CARD), 2)


def the_generator(composer: Composer, linear: Encoder) -> loop.Learner:
    """A learner of latents, by captions too."""
    tokenizer = text.load_tokenizer()
    batches = Batches(composer, linear, Reader(text.build(tokenizer), tokenizer, CARD), 0.5, CARD)
    return generator.Painter(generator.build().to(CARD), batches, 6, later=0.5)


def both(composer: Composer, linear: Encoder) -> loop.Learner:
    """A learner of latents and pictures."""
    batches = Batches(composer, linear, device=CARD)
    return sharpen.Both(generator.build().to(CARD), decoder.build().to(CARD), batches, 2, 0.1)


def the_encoder(composer: Composer, linear: Encoder) -> loop.Learner:
    """A learner of the linear latents."""
    return vae_encoder.Teller(decoder.build().to(CARD), Crops(composer, linear, 192, CARD), 2)


@pytest.mark.parametrize("made", [the_text, the_decoder, the_generator, both, the_encoder])
def test_a_step_stays_on_the_card(
    made: Callable[[Composer, Encoder], loop.Learner], composer: Composer, encoder: Encoder
) -> None:
    """Batches, losses, gradients, moments and averages: early in a run, and late."""
    learner = made(composer, encoder)
    with Apart():
        for index in range(3):
            learner.step(index, index / 3, np.random.default_rng(index))
        learner.state_dict()

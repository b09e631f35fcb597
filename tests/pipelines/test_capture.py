"""What is to be recorded as a CUDA graph never touches the host: shown on the meta device, which has no card.

A tensor made on the host inside the function (an index list, a constant) would be copied in mid-recording, which
CUDA refuses; asking a value back (`item`) raises on the meta device itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onestroke.levers import Levers
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from tests.pipelines.tiny_models import SIZE, TOKENS, save_tiny_pipeline

META = torch.device("meta")


class Watch(TorchDispatchMode):
    """Collects the operators that see a tensor of the host, or one that was made within without an operator.

    `known` are the tensors that were there before.
    """

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self._known = {id(tensor): tensor for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in((args, kwargs)):
            if tensor.device.type == "cpu" or id(tensor) not in self._known:
                self.seen.add(str(func))
        self._known.update({id(tensor): tensor for tensor in tensors_in(out)})
        return out


def tensors_in(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def held(thing: Any) -> Iterator[torch.Tensor]:
    """Every tensor that a module holds, also those that are no parameters."""
    for module in thing.modules():
        yield from tensors_in([vars(module), dict(module._parameters), dict(module._buffers)])


def to_meta(thing: Any) -> None:
    """Every tensor that a module holds, also those that are no parameters."""
    for module in thing.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                setattr(module, name, value.to(META))
    thing.to(META)


def networks(pipeline: Pipeline) -> list[nn.Module]:
    project = pipeline.text._project
    assert isinstance(project, nn.Module)
    decoder = pipeline.decoder
    fast = [decoder.fast] if decoder.fast is not None else []
    return [pipeline.denoiser.unet, *pipeline.text.encoders, project, decoder.vae, *fast]


@pytest.fixture(scope="module", params=["tiny decoder", "full decoder"])
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    spec = save_tiny_pipeline(tmp_path_factory.mktemp("capture"), kl=request.param == "full decoder")
    made = load(spec, device="cpu", dtype="float16", levers=Levers(fuse="on", encode_kv="on"))
    for network in networks(made):
        to_meta(network)
    for name in ("_scale", "_shift"):
        setattr(made.decoder, name, getattr(made.decoder, name).to(META))
    return made


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 4])
def test_no_verb_touches_the_host_while_it_is_recorded(pipeline: Pipeline, n: int) -> None:
    latents = torch.empty(n, 4, SIZE // 4, SIZE // 4, device=META)
    table = torch.empty(n, 16, device=META)
    ids = torch.empty(n, TOKENS, dtype=torch.int64, device=META)
    decoder = pipeline.decoder
    own = [tensor for network in networks(pipeline) for tensor in held(network)]
    nothing = torch.empty_like(latents)
    with Watch(latents, nothing, table, ids, decoder._scale, decoder._shift, *own) as watch:
        hidden, pooled = pipeline.text._embed(ids, ids)
        stepped, _, finite = pipeline.denoiser._advance(latents, nothing, table, hidden, pooled)
        pixels, whole = decoder._pictures(stepped)
    assert watch.seen == set()
    assert (stepped.shape, finite.shape, whole.shape) == (latents.shape, (n,), (n,))
    assert (tuple(pixels.shape), pixels.dtype) == ((n, SIZE, SIZE, 3), torch.uint8)


@pytest.mark.parametrize(
    "touch",
    [
        lambda x: x[:, [0, 1]],
        lambda x: x + torch.ones(4),
        lambda x: x * torch.tensor([2.0], device=META),
    ],
    ids=["an index", "an operand", "a constant"],
)
def test_the_watch_sees_what_is_made_on_the_host(touch: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.empty(4, 4, device=META)
    with Watch(x) as watch, contextlib.suppress(RuntimeError):
        touch(x)
    assert watch.seen

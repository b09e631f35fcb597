"""ControlNets: what they add to a UNet's skips for the rows that they steer, in the pass that all rows share.

A ControlNet runs only on its own rows. What it says is scaled row by row and laid into zeros for all others, so
that one UNet forward serves them together and nobody else's picture changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from onestroke.errors import ModelError
from onestroke.pipelines.cache import ByteCache
from onestroke.pipelines.graphs import Graphed, Recorder
from onestroke.pipelines.unet import Residuals, UnetRow

CACHE_BYTES = 64 << 20
"""What a control image becomes is 2.6 MB at 512x512 in half precision."""


class ControlNet:
    """One ControlNet beside a UNet, in the UNet's dtype and buckets.

    What it makes of the control image itself is made once and kept by the picture's digest.
    """

    def __init__(
        self,
        net: Any,
        *,
        buckets: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        recorder: Recorder | None = None,
    ) -> None:
        self.net = net
        self.device = device
        self.dtype = dtype
        self.memory_format = memory_format
        self.cache: ByteCache[torch.Tensor] = ByteCache(CACHE_BYTES)
        self.rows = 0
        self._read_image = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self._reversed = net.config.controlnet_conditioning_channel_order == "bgr"
        net.register_to_config(controlnet_conditioning_channel_order="rgb")
        self.graphed = Graphed(self._residuals, buckets=buckets, device=device, recorder=recorder)

    def hint(self, digest: str, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What the picture with this digest says (channels, h, w), on the device.

        `read` gives it where that is not known: uint8, (height, width, 3), on the host.
        """
        if (found := self.cache.get(digest)) is not None:
            return found
        pixels = read().to(self.device).permute(2, 0, 1)[None].float() / 255
        pixels = (pixels.flip(1) if self._reversed else pixels).to(self.dtype)
        made: torch.Tensor = self._read_image(pixels.contiguous(memory_format=self.memory_format))[0]
        self.cache.put(digest, made)
        return made

    def __call__(
        self, rows: Sequence[UnetRow], hints: Sequence[torch.Tensor], scales: Sequence[float]
    ) -> list[Residuals]:
        """What is added to each row's skips and, last, to its middle."""
        table = [
            (row.step.t, row.step.d, scale, *row.time_ids) for row, scale in zip(rows, scales, strict=True)
        ]
        found = self.graphed(
            [row.latents for row in rows],
            torch.tensor(table, dtype=torch.float32),
            [row.embedding.hidden for row in rows],
            [row.embedding.pooled for row in rows],
            list(hints),
        )
        self.rows += len(rows)
        return [tuple(residual[i] for residual in found) for i in range(len(rows))]

    def _residuals(
        self,
        x: torch.Tensor,
        table: torch.Tensor,
        hidden: torch.Tensor,
        pooled: torch.Tensor,
        hints: torch.Tensor,
    ) -> Residuals:
        d, scale = table[:, 1:3, None, None, None].unbind(1)
        down, middle = self.net(
            (x * d).to(self.dtype).contiguous(memory_format=self.memory_format),
            table[:, 0].contiguous(),
            encoder_hidden_states=hidden,
            controlnet_cond=hints,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": table[:, 3:].to(self.dtype)},
            return_dict=False,
        )
        return tuple((each * scale).to(self.dtype) for each in (*down, middle))


def check_control(name: str, net: Any, unet: Any) -> None:
    """Raise ModelError for a ControlNet that was made for another UNet."""
    for value in ("in_channels", "cross_attention_dim", "block_out_channels", "addition_embed_type"):
        theirs, own = net.config[value], unet.config[value]
        if list(theirs if isinstance(theirs, list | tuple) else [theirs]) != list(
            own if isinstance(own, list | tuple) else [own]
        ):
            raise ModelError(
                f"the ControlNet {name} was made for another kind of model: its {value} is {theirs}, the "
                f"model's {own}"
            )
    if net.config.global_pool_conditions:
        raise ModelError(f"the ControlNet {name} pools its control image (shuffle): that is not served")

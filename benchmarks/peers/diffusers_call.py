"""diffusers' own StableDiffusionXLPipeline, called the way it is fastest: what a good engineer does by hand.

The same weights, dtype, steps, JPEG encoder and quality as ours; channels_last; inference mode; no progress
bar; no safety or watermark stage; pictures come back as tensors (`output_type="pt"`) because diffusers' way
over float numpy arrays and PIL is slower; and VAE slicing is on where a trial says that it is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import simplejpeg
import torch
from diffusers import StableDiffusionXLPipeline

from benchmarks.options import ModelOptions
from onestroke.models.catalog import ModelSpec
from onestroke.models.choosing import choose
from onestroke.pipelines.loading import pick_device, pick_dtype

JPEG_QUALITY = 85
_TRIALS = 3


class DiffusersCall:
    """`draw` is one call of the pipeline and a JPEG for each picture of it."""

    def __init__(self, options: ModelOptions) -> None:
        spec = choose(options.model).spec
        if options.threads:
            torch.set_num_threads(options.threads)
        where = pick_device(options.device)
        dtype = pick_dtype(spec.dtype if options.dtype == "auto" else options.dtype, where)
        self.spec: ModelSpec = spec
        self.pipe: Any = StableDiffusionXLPipeline.from_pretrained(
            spec.source,
            revision=spec.revision,
            torch_dtype=dtype,
            variant=spec.variant,
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
        ).to(where)
        self.pipe.set_progress_bar_config(disable=True)
        for part in (self.pipe.unet, self.pipe.vae):
            part.to(memory_format=torch.channels_last)
        self.device = str(where)
        self.dtype = str(dtype).removeprefix("torch.")
        self.threads = torch.get_num_threads()

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        spec = self.spec
        width, height = spec.default_size
        steps = dict(spec.timesteps).get(spec.default_steps)
        images = self.pipe(
            prompt=list(prompts),
            num_inference_steps=spec.default_steps,
            timesteps=list(steps) if steps else None,
            guidance_scale=spec.guidance_scale,
            width=width,
            height=height,
            output_type="pt",
        ).images
        return [simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY) for pixels in to_pixels(images)]

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None:
        """Every batch size, with whichever VAE slicing draws the largest batch faster."""
        largest = max(batches)
        seconds = {}
        for sliced in (False, True):
            self._slice(sliced)
            self.draw(prompts(largest))
            seconds[sliced] = min(self._timed(prompts(largest)) for _ in range(_TRIALS))
        self._slice(seconds[True] < seconds[False])
        for n in batches:
            self.draw(prompts(n))

    def _slice(self, on: bool) -> None:
        (self.pipe.vae.enable_slicing if on else self.pipe.vae.disable_slicing)()

    def _timed(self, prompts: list[str]) -> float:
        start = time.perf_counter()
        self.draw(prompts)
        return time.perf_counter() - start


def to_pixels(images: torch.Tensor) -> np.ndarray[Any, Any]:
    """diffusers' (n, 3, height, width) in 0 to 1 as uint8 (n, height, width, 3) on the CPU."""
    bytes_ = images.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(0, 2, 3, 1).cpu().numpy())

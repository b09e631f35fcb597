"""StreamDiffusion's own one-step call, on SD-Turbo's shapes: its UNet path knows nothing of SDXL's extra inputs.

As its example for SD-Turbo sets it up: the tiny VAE, no guidance, one step (`txt2img_sd_turbo`). Its release asks
for diffusers 0.24 and runs with today's, so it is installed without its dependencies (see `INSTALL`). Its TensorRT
engines are left out: they are built for one card and want wheels of gigabytes. It keeps one prompt for many frames;
here each picture has a prompt of its own, encoded with the batch, as for everybody else in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simplejpeg
import torch

from benchmarks.options import ModelOptions
from benchmarks.peers.diffusers_call import JPEG_QUALITY, DiffusersCall, to_pixels
from benchmarks.weights import spec_of
from onestroke.errors import ModelError

INSTALL = "pip install --no-deps streamdiffusion==0.1.1"


class StreamDiffusionCall(DiffusersCall):
    """Raises ModelError where it is not installed, or for a model that it cannot run."""

    def __init__(self, options: ModelOptions) -> None:
        spec = spec_of(options)
        if spec.family != "sd" or spec.default_steps != 1:
            raise ModelError(
                f"StreamDiffusion draws in one step with SD-Turbo's network, not with {spec.name}'s"
            )
        try:
            from streamdiffusion import StreamDiffusion
        except ImportError as error:
            raise ModelError(f"StreamDiffusion is not installed: {INSTALL}") from error
        super().__init__(options)
        width, height = spec.default_size
        self.stream = StreamDiffusion(
            self.pipe, [0], torch_dtype=self.torch_dtype, width=width, height=height, cfg_type="none"
        )
        self.stream.prepare("", num_inference_steps=50, guidance_scale=0.0)

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        embeddings, _ = self.pipe.encode_prompt(list(prompts), self.pipe.device, 1, False)
        self.stream.prompt_embeds = embeddings
        images = self.stream.txt2img_sd_turbo(len(prompts))
        return [simplejpeg.encode_jpeg(each, quality=JPEG_QUALITY) for each in to_pixels(images / 2 + 0.5)]

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None:
        for n in batches:
            self.draw(prompts(n))

"""diffusers' own pipeline, called the way it is fastest: what a good engineer does by hand.

The same weights, dtype, steps, sampler, JPEG encoder and quality as ours; channels_last; inference mode; no
progress bar; no safety or watermark stage; pictures come back as tensors (`output_type="pt"`) because diffusers'
way over float numpy arrays and PIL is slower; and VAE slicing is on where a trial says that it is faster. SDXL's
VAE stays in fp16 as its fp16-safe edition does, instead of being moved to fp32 and back in every call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import simplejpeg
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from benchmarks.options import ModelOptions
from benchmarks.roofline import Op, Recorder
from benchmarks.weights import parts_of, spec_of
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import pick_device, pick_dtype
from onestroke.pipelines.parts import Parts
from onestroke.pipelines.samplers import make_scheduler

JPEG_QUALITY = 85
_TRIALS = 3


class DiffusersCall:
    """`draw` is one call of the pipeline and a JPEG for each picture of it."""

    def __init__(self, options: ModelOptions) -> None:
        spec, where = spec_of(options), pick_device(options.device)
        dtype = pick_dtype(spec.dtype if options.dtype == "auto" else options.dtype, where)
        self._take(options, parts_of(options, dtype))

    @classmethod
    def of(cls, options: ModelOptions, parts: Parts) -> Self:
        """Over parts in memory."""
        target = cls.__new__(cls)
        target._take(options, parts)
        return target

    def _take(self, options: ModelOptions, parts: Parts) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        spec, where = spec_of(options), pick_device(options.device)
        self.spec = spec
        self.pipe = pipeline_of(spec, parts).to(where)
        self.pipe.set_progress_bar_config(disable=True)
        torch.backends.cudnn.benchmark = True
        for part in (self.pipe.unet, self.pipe.vae):
            part.to(memory_format=torch.channels_last)
        self.unet_config = self.pipe.unet.config
        self.torch_dtype: torch.dtype = self.pipe.unet.dtype
        self.device = str(where)
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
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
        if largest > 1:
            seconds = {}
            for sliced in (False, True):
                self._slice(sliced)
                self.draw(prompts(largest))
                seconds[sliced] = min(self._timed(prompts(largest)) for _ in range(_TRIALS))
            self._slice(seconds[True] < seconds[False])
        for n in batches:
            self.draw(prompts(n))

    def count(self, prompts: Sequence[str]) -> dict[str, list[Op]]:
        """The operators with arithmetic that drawing one batch runs, by stage."""
        pipe = self.pipe
        networks = {"unet": [pipe.unet], "decode": [pipe.vae.decoder]}
        networks["text"] = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)]
        recorder = Recorder()
        with recorder:

            def enter(stage: str) -> Callable[..., None]:
                return lambda *_: setattr(recorder, "stage", stage)

            hooks = [
                hook
                for stage, modules in networks.items()
                for module in modules
                if module is not None
                for hook in (
                    module.register_forward_pre_hook(enter(stage)),
                    module.register_forward_hook(enter("")),
                )
            ]
            try:
                self.draw(prompts)
            finally:
                for hook in hooks:
                    hook.remove()
        return recorder.stages

    def _slice(self, on: bool) -> None:
        (self.pipe.vae.enable_slicing if on else self.pipe.vae.disable_slicing)()

    def _timed(self, prompts: list[str]) -> float:
        start = time.perf_counter()
        self.draw(prompts)
        return time.perf_counter() - start


class CompiledCall(DiffusersCall):
    """The same, compiled as diffusers' guide to fast inference says.

    Fused projections, inductor's flags for diffusion models, UNet and VAE decoder compiled whole and for each batch
    size by itself. `mode` is torch.compile's; the guide takes "max-autotune".
    """

    def __init__(self, options: ModelOptions, mode: str) -> None:
        super().__init__(options)
        import torch._inductor.config as inductor

        inductor.conv_1x1_as_mm = True
        inductor.coordinate_descent_tuning = True
        inductor.epilogue_fusion = False
        inductor.coordinate_descent_check_all_directions = True
        self.pipe.fuse_qkv_projections(unet=True, vae=hasattr(self.pipe.vae, "fuse_qkv_projections"))
        compiled: Any = partial(torch.compile, mode=mode, fullgraph=True, dynamic=False)
        self.pipe.unet = compiled(self.pipe.unet)
        self.pipe.vae.decode = compiled(self.pipe.vae.decode)


def pipeline_of(spec: ModelSpec, parts: Parts) -> Any:
    """diffusers' pipeline over the very parts that ours is made of."""
    common = {
        "vae": parts.vae,
        "text_encoder": parts.text_encoders[0],
        "tokenizer": parts.tokenizers[0],
        "unet": parts.unet,
        "scheduler": make_scheduler(parts.scheduler, spec.sampler),
    }
    if getattr(parts.vae.config, "force_upcast", False):
        parts.vae.register_to_config(force_upcast=False)
    if spec.family == "sd":
        return StableDiffusionPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return StableDiffusionXLPipeline(
        **common,
        text_encoder_2=parts.text_encoders[1],
        tokenizer_2=parts.tokenizers[1],
        force_zeros_for_empty_prompt=bool(parts.options.get("force_zeros_for_empty_prompt", True)),
        add_watermarker=False,
    )


def to_pixels(images: torch.Tensor) -> np.ndarray[Any, Any]:
    """diffusers' (n, 3, height, width) in 0 to 1 as uint8 (n, height, width, 3) on the CPU."""
    bytes_ = images.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(0, 2, 3, 1).cpu().numpy())

"""What a diffusers pipeline can be asked, read off its signature; never its code."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from onestroke.core import GenerationRequest
from onestroke.errors import InvalidRequest, ModelError
from onestroke.models.specs import ModelSpec

NEEDED = ("prompt", "num_inference_steps", "generator", "height", "width", "output_type")
"""What a pipeline must take to be served."""


def pipeline_class(name: str) -> Any:
    """diffusers' class of that name. Raises ModelError where there is none, or it wants more than a text."""
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, DiffusionPipeline)):
        raise ModelError(f"diffusers {diffusers.__version__} has no pipeline {name}")
    takes = inspect.signature(kind.__call__).parameters
    if missing := [each for each in NEEDED if each not in takes]:
        raise ModelError(
            f"its {name} takes no {' and no '.join(missing)}: only text-to-image pipelines are served"
        )
    if own := [each.name for each in takes.values() if _is_wanted(each)]:
        raise ModelError(f"its {name} wants {' and '.join(own)}: only text-to-image pipelines are served")
    return kind


def _is_wanted(parameter: inspect.Parameter) -> bool:
    """Whether a call must give it, beside what every call gives."""
    named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return named and parameter.default is parameter.empty and parameter.name not in ("self", *NEEDED)


class Call:
    """How pictures of `spec` are asked of its pipeline `kind`.

    Raises ModelError where that does not take all of `spec.call`.
    """

    def __init__(self, spec: ModelSpec, kind: Any) -> None:
        self.spec = spec
        self._name = kind.__name__
        self._takes = inspect.signature(kind.__call__).parameters
        if unknown := [name for name, _ in spec.call if name not in self._takes]:
            raise ModelError(f"{spec.name}: its {self._name} takes no {' and no '.join(unknown)}")

    @property
    def text_limit(self) -> int | None:
        """Tokens that are read of a prompt, where the call says it."""
        named = self._takes.get("max_sequence_length")
        limit = dict(self.spec.call).get("max_sequence_length", named.default if named else None)
        return limit if isinstance(limit, int) else None

    def check(self, request: GenerationRequest) -> None:
        """Raise InvalidRequest, naming the field, for what the pipeline does not take."""
        what = f"{self.spec.name} ({self._name})"
        # With true_cfg_scale beside it a negative prompt would do nothing: that scale is not ours to choose.
        takes_negative = "negative_prompt" in self._takes and "true_cfg_scale" not in self._takes
        if request.negative_prompt is not None and not takes_negative:
            raise InvalidRequest(f"{what} takes no negative prompt: leave it out", "negative_prompt")
        if request.guidance_scale != self.spec.guidance_scale and "guidance_scale" not in self._takes:
            raise InvalidRequest(f"{what} takes no guidance scale: leave it out", "guidance_scale")
        if request.sampler not in self.spec.samplers:
            raise InvalidRequest(f"{what} has its own sampler and no other: leave it out", "sampler")

    def arguments(self, requests: Sequence[GenerationRequest]) -> dict[str, Any]:
        """Those of one call for requests of one batch key: lists of prompts and of CPU generators, a seed each."""
        first = requests[0]
        found: dict[str, Any] = {
            "prompt": [each.prompt for each in requests],
            "generator": [torch.Generator().manual_seed(each.seed) for each in requests],
            "num_inference_steps": first.steps,
            "height": first.height,
            "width": first.width,
            "output_type": "np",
            **dict(self.spec.call),
        }
        if "guidance_scale" in self._takes:
            found["guidance_scale"] = first.guidance_scale
        if any(each.negative_prompt is not None for each in requests):
            found["negative_prompt"] = [each.negative_prompt or "" for each in requests]
        if "intermediate_timesteps" in self._takes and first.steps != 2:
            found["intermediate_timesteps"] = None  # SANA-Sprint's default suits two steps and no others
        return found

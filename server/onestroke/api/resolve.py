"""From what a face was asked to fully resolved requests; every refusal names the field and the cure."""

from __future__ import annotations

import math
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from onestroke.core import (
    MAX_SEED,
    AdapterUse,
    Control,
    DecoderName,
    GenerationRequest,
    ImageFormat,
    Margins,
    SourceImage,
)
from onestroke.errors import InvalidRequest, UnknownModel
from onestroke.models.specs import ModelSpec

MAX_GUIDANCE = 30.0
DEFAULT_QUALITY = 85
MAX_ADAPTERS = 8
MAX_SCALE = 4.0
"""An adapter's; negative ones turn it round."""
DEFAULT_STRENGTH = 0.75
"""AUTOMATIC1111's."""
FREE_STEPS, FREE_GUIDANCE = 100, 4.0
"""Those of the Muse paper's mask-free editing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller said; None where it said nothing. `size` is "WIDTHxHEIGHT" or "auto".

    `decoder` is the face's to choose: whoever types gets the tiny one where the model has two.
    """

    prompt: str
    model: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    size: str | None = None
    format: ImageFormat = ImageFormat.JPEG
    quality: int | None = None
    image: SourceImage | None = None
    strength: float | None = None
    mask: SourceImage | None = None
    expand: Margins | None = None
    control: Control | None = None
    decoder: DecoderName = "full"
    adapters: Sequence[AdapterUse] = ()
    steps_field: str = "steps"


def find_model(name: str | None, specs: Sequence[ModelSpec]) -> ModelSpec:
    """The one of `specs` that is called `name`; None and "auto" are the first. Raises UnknownModel."""
    if name in (None, "auto"):
        return specs[0]
    for spec in specs:
        if spec.name == name:
            return spec
    served = ", ".join(repr(spec.name) for spec in specs)
    raise UnknownModel(f"the model {name!r} is not served here; this server has {served}", "model")


def resolve(
    ask: Ask, specs: Sequence[ModelSpec], max_prompt_chars: int, n: int = 1
) -> list[GenerationRequest]:
    """`n` requests of the model asked for, picture i with seed + i. Raises InvalidRequest (UnknownModel for the
    model)."""
    spec = find_model(ask.model, specs)
    check_text(ask.prompt, "prompt", max_prompt_chars)
    if not ask.prompt.strip():
        raise InvalidRequest("prompt is empty: say what to draw", "prompt")
    if ask.negative_prompt is not None:
        check_text(ask.negative_prompt, "negative_prompt", max_prompt_chars)
    seed = secrets.randbelow(2**32) if ask.seed is None else ask.seed
    if not 0 <= seed <= MAX_SEED - n:
        raise InvalidRequest(f"seed must be from 0 to 2^53 - n, got {seed}", "seed")
    strength = _strength(ask, spec)
    if ask.expand is not None and ask.image is None:
        raise InvalidRequest("expand goes with image: give the picture to go on from", "expand")
    free = spec.family == "muse" and ask.image is not None and ask.mask is None and ask.expand is None
    steps = ask.steps
    if steps is None:
        steps = min(FREE_STEPS, spec.max_steps) if free else _default_steps(spec, strength)
    spec.check_steps(steps, ask.steps_field)
    if strength is not None and int(steps * strength) < 1:
        cure = f"raise strength to {1 / steps:.3g}"
        if int((enough := _default_steps(spec, strength)) * strength):
            cure += f" or {ask.steps_field} to {enough}"
        raise InvalidRequest(
            f"strength {strength:g} of {steps} steps leaves none to take: {cure}", "strength"
        )
    guidance = FREE_GUIDANCE if free else spec.guidance_scale
    if ask.guidance_scale is not None:
        guidance = ask.guidance_scale
    if not (math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE):
        raise InvalidRequest(f"guidance_scale must be from 0 to {MAX_GUIDANCE:g}", "guidance_scale")
    if ask.negative_prompt is not None and spec.embeds_guidance:
        raise InvalidRequest(f"negative_prompt has no effect on {spec.name}: leave it out", "negative_prompt")
    if ask.negative_prompt is not None and guidance <= 1:
        raise InvalidRequest(
            "negative_prompt has no effect unless guidance_scale is above 1: raise it or leave it out",
            "negative_prompt",
        )
    sampler = ask.sampler or spec.sampler
    if sampler not in spec.samplers:
        raise InvalidRequest(
            f"{spec.name} has no sampler {sampler!r}: give {', '.join(spec.samplers)}", "sampler"
        )
    if ask.quality is not None and not 1 <= ask.quality <= 100:
        raise InvalidRequest("quality must be from 1 to 100", "quality")
    adapters = _adapters(ask.adapters)
    width, height = drawn_size(ask.size, spec)
    timesteps = dict(spec.timesteps).get(steps) if sampler == spec.sampler else None
    return [
        GenerationRequest(
            model=spec.name,
            prompt=ask.prompt,
            seed=seed + i,
            steps=steps,
            guidance_scale=guidance,
            negative_prompt=ask.negative_prompt,
            sampler=sampler,
            timesteps=timesteps,
            width=width,
            height=height,
            crop=spec.crop(seed + i),
            decoder=ask.decoder,
            adapters=adapters,
            embeds_guidance=spec.embeds_guidance,
            format=ask.format,
            quality=DEFAULT_QUALITY if ask.quality is None else ask.quality,
            whole=spec.whole,
            image=ask.image,
            strength=strength,
            mask=ask.mask,
            expand=ask.expand,
            control=ask.control,
        )
        for i in range(n)
    ]


def check_start(ask: Ask, spec: ModelSpec, *, masked: bool = False) -> None:
    """Raise InvalidRequest where a picture cannot be started from as it is asked for."""
    if not spec.reads_pictures:
        never = (
            "the encoder of its VAE was never trained" if spec.family in ("sd", "sdxl") else "it takes none"
        )
        raise InvalidRequest(
            f"{spec.name} cannot start from a picture: {never}. Leave image out, or serve another model (sd15, for "
            "one)",
            "image",
        )
    if spec.family == "muse":
        if ask.strength is not None:
            raise InvalidRequest(
                f"{spec.name} takes no strength: give a mask of what is to be painted anew, or leave it out",
                "strength",
            )
        if ask.expand is not None and masked:
            raise InvalidRequest("expand paints around the picture: leave it out, or mask", "expand")
        if ask.expand is not None and not any(ask.expand):
            raise InvalidRequest("expand by 0 on every side: say which side is to grow", "expand")
    elif masked or ask.expand is not None:
        field = "mask" if masked else "expand"
        raise InvalidRequest(
            f"{field} is for Muse models, and {spec.name} is none: leave it out, or serve one (amused-256)",
            field,
        )
    elif ask.strength is not None and not 0 < ask.strength <= 1:
        raise InvalidRequest(
            f"strength must be above 0 and at most 1, got {ask.strength:g}: 0 would leave the picture as it is",
            "strength",
        )


def control_name(name: str | None, spec: ModelSpec) -> str:
    """The ControlNet that is meant; the only one needs no name. Raises InvalidRequest."""
    names = [each.name for each in spec.controls]
    if not names:
        raise InvalidRequest(
            f"no ControlNet is served beside {spec.name}: leave control out, or start with --controlnet",
            "control",
        )
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        raise InvalidRequest(f"control.name must be one of {', '.join(names)}, got {name!r}", "control.name")
    return name


def _strength(ask: Ask, spec: ModelSpec) -> float | None:
    if ask.image is None or spec.family == "muse":
        if ask.strength is not None:
            raise InvalidRequest("strength goes with image: leave it out or give a picture", "strength")
        return None
    return DEFAULT_STRENGTH if ask.strength is None else ask.strength


def _default_steps(spec: ModelSpec, strength: float | None) -> int:
    """The model's own number; with a strength the next that leaves a step to take, if there is one."""
    if strength is None:
        return spec.default_steps
    known = spec.only_steps or range(spec.default_steps, spec.max_steps + 1)
    enough = (steps for steps in known if steps >= spec.default_steps and int(steps * strength))
    return next(enough, spec.default_steps)


def check_text(text: str, field: str, max_chars: int) -> None:
    """Text that a tokenizer can take. Raises InvalidRequest."""
    if len(text) > max_chars:
        raise InvalidRequest(f"{field} has {len(text)} characters; at most {max_chars} are taken", field)
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" for c in text):
        raise InvalidRequest(f"{field} holds control characters: it must be plain text", field)


def _adapters(uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
    """By name, so that the same set makes the same batch; those of scale 0 are none."""
    if len(uses) > MAX_ADAPTERS:
        raise InvalidRequest(f"at most {MAX_ADAPTERS} adapters can be used together", "adapters")
    if len({use.name for use in uses}) < len(uses):
        raise InvalidRequest("adapters must name each adapter once", "adapters")
    for name, scale in uses:
        if not -MAX_SCALE <= scale <= MAX_SCALE:
            raise InvalidRequest(
                f"adapters: the scale of {name!r} must be from -{MAX_SCALE:g} to {MAX_SCALE:g}", "adapters"
            )
    return tuple(sorted(use for use in uses if use.scale))


def drawn_size(size: str | None, spec: ModelSpec) -> tuple[int, int]:
    if size in (None, "auto"):
        return spec.default_size
    known = {f"{width}x{height}": (width, height) for width, height in spec.sizes}
    if size not in known:
        raise InvalidRequest(f"size must be auto or one of {', '.join(known)}, got {size!r}", "size")
    return known[size]

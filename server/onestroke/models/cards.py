"""What people and programs are told of a model: the same facts for the command line, `/v1/models` and the page."""

from __future__ import annotations

from typing import Any

from onestroke.core import MAX_SEED
from onestroke.models.specs import FileSpec, ModelSpec


def card(spec: ModelSpec) -> dict[str, Any]:
    """JSON values; bytes are None where they are not known. Paths of this machine are nobody else's business."""
    return {
        "name": spec.name,
        "description": spec.description,
        "limits": spec.limits or None,
        "source": None if spec.is_local else spec.at,
        "parts": [_public(extra) for extra in spec.extras],
        "licence": {
            "name": spec.licence.name,
            "terms": spec.licence.terms,
            "commercial": spec.licence.commercial,
            "url": spec.licence.url,
        },
        "family": spec.family,
        "sampler": spec.sampler,
        "samplers": list(spec.samplers),
        "default_steps": spec.default_steps,
        "max_steps": spec.max_steps,
        "only_steps": list(spec.only_steps),
        "guidance_scale": spec.guidance_scale,
        "sizes": [list(size) for size in spec.sizes],
        "max_seed": MAX_SEED - 1,
        "reads_pictures": spec.reads_pictures,
        "controls": [each.name for each in spec.controls],
        "download_bytes": spec.download_bytes or None,
        "memory_bytes": spec.memory_bytes or None,
    }


def _public(extra: FileSpec) -> str:
    return extra.source.rpartition("/")[2] if extra.is_local else extra.name


def described(spec: ModelSpec, here: bool) -> list[str]:
    """The same in lines; `here`: its weights are on this machine."""
    width, height = spec.default_size
    steps = "1 step" if spec.default_steps == 1 else f"{spec.default_steps} steps"
    most = f" (up to {spec.max_steps})" if spec.max_steps > spec.default_steps else ""
    others = f", {len(spec.sizes) - 1} other sizes" if len(spec.sizes) > 1 else ""
    weights = "here" if here else f"{spec.download_bytes / 1e9:.1f} GB to fetch"
    lines = [
        f"{width}x{height} in {steps}{most}, guidance {spec.guidance_scale:g}{others}; "
        f"weights: {weights}; memory: {spec.memory_bytes / 1e9:.1f} GB",
        spec.description,
        f"limits: {spec.limits}",
        f"{spec.licence.name}: {spec.licence.terms} {spec.licence.url}",
    ]
    if not spec.is_local:
        lines.append(f"from {', '.join([spec.at, *map(_public, spec.extras)])}")
    return lines

"""A model's parts, read from a diffusers folder or a single file into memory: safetensors only, nothing half-read.

Files are checked before anything is loaded: a file cut short, a part missing or too little memory is said in one
sentence, with the cure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import diffusers.utils.logging as diffusers_logging
import torch
import transformers.utils.logging as transformers_logging
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from onestroke.errors import ModelError
from onestroke.models import hub
from onestroke.models.catalog import ModelSpec, VaeSpec
from onestroke.models.checkpoints import read_header
from onestroke.models.choosing import vae_of
from onestroke.models.folders import (
    INDEX,
    SCHEDULER,
    TEXT_ENCODERS,
    TOKENIZERS,
    components,
    family_of,
    names_in,
    read_json,
    weights_of,
)
from onestroke.pipelines.memory import check_memory
from onestroke.pipelines.rows import Progress

VAE_KINDS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
SAFE = {"force_upcast": False}
"""The SD family's VAE does not overflow in fp16, whatever the default of diffusers' configuration says."""


class Parts(NamedTuple):
    """What a model is made of, on the CPU; `options` are the plain values of its model_index.json.

    `scheduler` is a scheduler's configuration, to be read by any sampler.
    """

    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler: dict[str, Any]
    options: dict[str, Any]


def read_parts(
    spec: ModelSpec, dtype: torch.dtype, progress: Progress = lambda stage, fraction: None
) -> Parts:
    """The parts of `spec` in `dtype`, brought here from the hub where they are not.

    Raises ModelError for whatever is missing, damaged, too large or of another kind.
    """
    source = Path(spec.source) if spec.is_local else hub.fetch(spec, progress)
    with _explained(spec.name, spec.source):
        parts = _from_folder(spec, source, dtype, progress)
    progress(f"loading {spec.name}: vae", 0.9)
    parts = parts._replace(
        vae=read_vae(spec, dtype, progress), scheduler={**parts.scheduler, **dict(spec.scheduler)}
    )
    channels, latents = parts.unet.config.in_channels, parts.vae.config.latent_channels
    if channels != latents:
        raise ModelError(
            f"the VAE {spec.vae} reads latents of {latents} channels and {spec.name} makes {channels}: "
            "give another --vae"
        )
    return parts


def read_vae(spec: ModelSpec, dtype: torch.dtype, progress: Progress = lambda stage, fraction: None) -> Any:
    """The AutoencoderKL or AutoencoderTiny that `spec.vae` names, in `dtype` on the CPU.

    `replace(spec, vae="tiny")` reads a second decoder for the same model. Raises ModelError.
    """
    wanted = vae_of(spec)
    if wanted is None:
        source = Path(spec.source) if spec.is_local else hub.fetch(spec, progress)
        with _explained(f"the VAE of {spec.name}", spec.source):
            return _vae(source, "vae", spec, dtype)
    source = hub.fetch(wanted, progress) if isinstance(wanted, VaeSpec) else wanted
    with _explained(f"the VAE {spec.vae}", str(source)):
        part = "vae" if (source / "vae" / "config.json").is_file() else ""
        return _vae(source, part, spec, dtype)


def _from_folder(spec: ModelSpec, folder: Path, dtype: torch.dtype, progress: Progress) -> Parts:
    index = read_json(folder / INDEX)
    family = family_of(index, spec.name)
    names = names_in(folder)
    parts = components(family)
    files = [file for part in parts for file in weights_of(names, part, spec.variant).files]
    check_memory(spec.name, parameters(folder, files), dtype)

    def read(kind: Any, part: str) -> Any:
        progress(f"loading {spec.name}: {part}", parts.index(part) / len(parts))
        return _read(kind, folder, part, names, spec.variant, dtype)

    unet = read(UNet2DConditionModel, "unet")
    encoders = tuple(
        read(CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection, part)
        for part in TEXT_ENCODERS[family]
    )
    return Parts(
        unet=unet,
        vae=None,
        text_encoders=encoders,
        tokenizers=tuple(
            CLIPTokenizer.from_pretrained(folder, subfolder=part, local_files_only=True)
            for part in TOKENIZERS[family]
        ),
        scheduler=read_json(folder / SCHEDULER),
        options={name: value for name, value in index.items() if not isinstance(value, list)},
    )


def _vae(folder: Path, part: str, spec: ModelSpec, dtype: torch.dtype) -> Any:
    names = names_in(folder)
    kind = read_json(folder / part / "config.json").get("_class_name")
    if kind not in VAE_KINDS:
        raise ModelError(f"{folder / part} holds a {kind}, which is not served: {', '.join(VAE_KINDS)} are")
    safe = SAFE if spec.family == "sd" and kind == "AutoencoderKL" else {}
    return _read(VAE_KINDS[kind], folder, part, names, spec.variant, dtype, **safe)


def _read(
    kind: Any,
    folder: Path,
    part: str,
    names: set[str],
    variant: str | None,
    dtype: torch.dtype,
    **config: Any,
) -> Any:
    """One component by its library's own loader, complete or not at all."""
    weights = weights_of(names, part, variant)
    parameters(folder, weights.files)
    model, info = kind.from_pretrained(
        folder,
        subfolder=part,
        dtype=dtype,
        variant=weights.variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **config,
    )
    check_complete(part or "the VAE", sorted(info["missing_keys"]))
    return model


def check_complete(part: str, missing: Sequence[str]) -> None:
    """Raise ModelError where weights are missing: they would be random."""
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing:
        raise ModelError(
            f"{part} lacks {len(missing)} of its weights, such as {missing[0]}: get its files again"
        )


def parameters(folder: Path, files: Sequence[str]) -> int:
    """How many numbers these safetensors files hold. Raises ModelError for a file that is not whole."""
    headers = [read_header(folder / file) for file in files if file.endswith(".safetensors")]
    return sum(tensor.numel for header in headers for tensor in header.tensors.values())


@contextmanager
def _explained(what: str, source: str) -> Iterator[None]:
    """Without progress bars and notes about unused configuration; what the loaders raise becomes a ModelError."""
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except MemoryError as error:
        raise ModelError(f"{what} does not fit into this machine's memory") from error
    except ModelError as error:
        raise ModelError(f"{what} cannot be loaded from {source}: {error.message}") from error
    except (
        SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise ModelError(f"{what} cannot be loaded from {source}: {error}") from error
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        transformers_logging.enable_progress_bar()

"""A model's parts, read from a diffusers folder or a single file into memory: safetensors only, nothing half-read.

Files are checked before anything is loaded: a file cut short, a part missing or too little memory is said in one
sentence, with the cure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import diffusers.utils.logging as diffusers_logging
import torch
import transformers.utils.logging as transformers_logging
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from onestroke.errors import ModelError
from onestroke.models import hub
from onestroke.models.checkpoints import read_header, recognise
from onestroke.models.choosing import vae_of
from onestroke.models.folders import (
    INDEX,
    SCHEDULER,
    TEXT_ENCODERS,
    TOKENIZERS,
    components,
    family_of,
    names_in,
    own_parts,
    read_json,
    weights_of,
)
from onestroke.models.specs import ControlSpec, FileSpec, ModelSpec, VaeSpec
from onestroke.pipelines import single_file
from onestroke.pipelines.adapters import merge
from onestroke.pipelines.control import check_control
from onestroke.pipelines.lora import lora_file, read_lora
from onestroke.pipelines.memory import WORKING_SPACE, check_memory
from onestroke.pipelines.rows import Progress
from onestroke.pipelines.spelling import Spelling, read_spelling

VAE_KINDS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


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
    spelling: Spelling | None = None
    controls: Mapping[str, Any] = MappingProxyType({})

    @property
    def networks(self) -> dict[str, Any]:
        """What a LoRA can adapt, by the names that diffusers gives them."""
        return {"unet": self.unet, **dict(zip(TEXT_ENCODERS["sdxl"], self.text_encoders, strict=False))}


def read_parts(
    spec: ModelSpec, dtype: torch.dtype, progress: Progress = lambda stage, fraction: None
) -> Parts:
    """The parts of `spec` in `dtype`, brought here from the hub where they are not.

    Raises ModelError for whatever is missing, damaged, too large or of another kind.
    """
    source = located(spec, progress)
    with explained(spec.name, spec.source):
        parts = (_from_folder if source.is_dir() else _from_file)(spec, source, dtype, progress)
    for lora in spec.loras:
        merge(parts.networks, read_lora(lora_file(located(lora, progress)), parts.unet.config))
    progress(f"loading {spec.name}: vae", 0.9)
    parts = parts._replace(
        vae=read_vae(spec, dtype, progress), scheduler={**parts.scheduler, **dict(spec.scheduler)}
    )
    if (parts.unet.config.time_cond_proj_dim is not None) != spec.embeds_guidance:
        takes = "does not take" if spec.embeds_guidance else "takes"
        raise ModelError(f"the UNet of {spec.name} {takes} guidance as an input, other than its row says")
    if spec.controls:
        progress(f"loading {spec.name}: ControlNets", 0.95)
        parts = parts._replace(
            controls={each.name: read_control(each, parts.unet, dtype) for each in spec.controls}
        )
    channels, latents = parts.unet.config.in_channels, parts.vae.config.latent_channels
    if channels != latents:
        raise ModelError(
            f"the VAE {spec.vae} reads latents of {latents} channels and {spec.name} makes {channels}: "
            "give another --vae"
        )
    return parts


def located(spec: ModelSpec | FileSpec, progress: Progress = lambda stage, fraction: None) -> Path:
    """Where the files of `spec` are on this machine, fetched if need be. Raises ModelError."""
    return Path(spec.source) if spec.is_local else hub.fetch(spec, progress)


def read_other_unet(place: Path, model: Path, dtype: torch.dtype) -> Any:
    """The UNet at `place`, a folder or a file, in place of the one that the folder `model` describes."""
    if place.is_dir():
        return read_part(UNet2DConditionModel, place, "", names_in(place), None, dtype)
    return single_file.read_unet_file(place, model, dtype)


def read_control(control: ControlSpec, unet: Any, dtype: torch.dtype) -> Any:
    """The ControlNet that `control` names, in `dtype` on the CPU. Raises ModelError where it is not for `unet`."""
    place = located(control.weights)
    with explained(f"the ControlNet {control.name}", str(place)):
        if place.is_dir():
            net = read_part(ControlNetModel, place, "", names_in(place), control.weights.variant, dtype)
        else:
            net = single_file.read_control_file(place, unet, dtype)
        check_control(control.name, net, unet)
    return net


def read_vae(spec: ModelSpec, dtype: torch.dtype, progress: Progress = lambda stage, fraction: None) -> Any:
    """The AutoencoderKL or AutoencoderTiny that `spec.vae` names, in `dtype` on the CPU.

    `replace(spec, vae="tiny")` reads a second decoder for the same model. Raises ModelError.
    """
    wanted = vae_of(spec)
    if wanted is None:
        what, part = f"the VAE of {spec.name}", "vae"
        source = located(spec, progress)
    else:
        what, part = f"the VAE {spec.vae}", ""
        source = hub.fetch(wanted, progress) if isinstance(wanted, VaeSpec) else wanted
        if (source / "vae" / "config.json").is_file():
            part = "vae"
    with explained(what, str(source)):
        if source.is_dir():
            vae = _vae(source, part, spec.variant, dtype)
        elif wanted is None:
            vae = single_file.read_own_vae(source, recognise(source).layout, dtype)
        else:
            vae = single_file.read_vae_file(source, spec.family, dtype)
    if spec.family == "sd":
        vae.register_to_config(force_upcast=False)  # it is safe in fp16, whatever diffusers' default says
    return vae


def _from_folder(spec: ModelSpec, folder: Path, dtype: torch.dtype, progress: Progress) -> Parts:
    index = read_json(folder / INDEX)
    family = family_of(index, spec.name)
    if family not in TOKENIZERS:
        raise ModelError(f"it holds a {index['_class_name']}, which is no {spec.family} model")
    names = names_in(folder)
    parts = components(family)
    other = located(spec.unet, progress) if spec.unet else None
    check_memory(spec.name, parameters_of(spec, folder, other), dtype)

    def read(kind: Any, part: str) -> Any:
        progress(f"loading {spec.name}: {part}", parts.index(part) / len(parts))
        return read_part(kind, folder, part, names, spec.variant, dtype)

    unet = read_other_unet(other, folder, dtype) if other else read(UNet2DConditionModel, "unet")
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
        options=_options(index),
        spelling=read_spelling(folder),
    )


def _from_file(spec: ModelSpec, path: Path, dtype: torch.dtype, progress: Progress) -> Parts:
    layout = recognise(path).layout
    check_memory(spec.name, single_file.parameters_in(path), dtype)
    configs = single_file.configs_of(layout)
    progress(f"loading {spec.name}: unet", 0.0)
    if spec.unet:
        unet = read_other_unet(located(spec.unet, progress), configs, dtype)
    else:
        unet = single_file.read_unet(path, layout, dtype)
    progress(f"loading {spec.name}: text encoders", 0.6)
    return Parts(
        unet=unet,
        vae=None,
        text_encoders=single_file.read_text_encoders(path, layout, dtype),
        tokenizers=single_file.make_tokenizers(layout),
        scheduler=read_json(configs / SCHEDULER),
        options=_options(read_json(configs / INDEX)),
    )


def _options(index: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in index.items() if not isinstance(value, list)}


def _vae(folder: Path, part: str, variant: str | None, dtype: torch.dtype) -> Any:
    kind = read_json(folder / part / "config.json").get("_class_name")
    if kind not in VAE_KINDS:
        raise ModelError(f"{folder / part} holds a {kind}, which is not served: {', '.join(VAE_KINDS)} are")
    return read_part(VAE_KINDS[kind], folder, part, names_in(folder), variant, dtype)


def read_part(
    kind: Any, folder: Path, part: str, names: set[str], variant: str | None, dtype: torch.dtype
) -> Any:
    """One component by its library's own loader, complete or not at all."""
    weights = weights_of(names, part, variant)
    parameters([folder / file for file in weights.files])
    model, info = kind.from_pretrained(
        folder,
        subfolder=part,
        dtype=dtype,
        variant=weights.variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
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


def parameters(files: Sequence[Path]) -> int:
    """How many numbers these safetensors files hold. Raises ModelError for a file that is not whole."""
    headers = [read_header(file) for file in files if file.suffix == ".safetensors"]
    return sum(tensor.numel for header in headers for tensor in header.tensors.values())


def memory_needed(spec: ModelSpec, dtype: torch.dtype) -> int:
    """Bytes that serving `spec` takes, about: by its weights where they are here, else as its row says."""
    source = Path(spec.source) if spec.is_local else hub.cached(spec)
    if source is None or (spec.unet and not hub.is_cached(spec.unet)):
        return spec.memory_bytes * dtype.itemsize // 2
    if source.is_dir():
        numbers = parameters_of(spec, source, located(spec.unet) if spec.unet else None)
    else:
        numbers = single_file.parameters_in(source)
    for control in spec.controls:
        here = hub.is_cached(control.weights)
        numbers += (
            parameters(_files_at(located(control.weights))) if here else control.weights.download_bytes // 2
        )
    return int(numbers * dtype.itemsize * WORKING_SPACE)


def parameters_of(spec: ModelSpec, folder: Path, other_unet: Path | None = None) -> int:
    """How many numbers a model in a diffusers folder holds, with its own UNet or another."""
    names = names_in(folder)
    files = [
        folder / file
        for part in own_parts(spec, names)
        for file in weights_of(names, part, spec.variant).files
    ]
    return parameters([*files, *(_files_at(other_unet) if other_unet else ())])


def _files_at(place: Path) -> list[Path]:
    """The weights at a folder, or the file itself."""
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [place]


@contextmanager
def explained(what: str, source: str) -> Iterator[None]:
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

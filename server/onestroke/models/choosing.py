"""From what an operator asks for to a row: a catalog name, a hub id, a diffusers folder or a `.safetensors` file.

What is not in the catalog is sampled by the recipe of the scheduler that its folder names, or, for a single file
(which names none), by that of the catalog's model of the same layout. `--recipe NAME` takes another row's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from onestroke.errors import InvalidRequest, ModelError, OnestrokeError
from onestroke.models import checkpoints, hub
from onestroke.models.catalog import AMUSED, CATALOG, CONTROLS, LORA_FILE, RECIPES, SDXL_SIZES, VAES, WHOLE
from onestroke.models.folders import (
    INDEX,
    SCHEDULER,
    SUPER_RESOLUTION,
    check_not_pickled,
    family_of,
    files_of,
    names_in,
    own_parts,
    read_json,
    weights_of,
)
from onestroke.models.specs import AdapterSpec, ControlSpec, FileSpec, Licence, ModelSpec, VaeSpec
from onestroke.settings import Settings

ADAPTER_NAME = re.compile(r"[\w.-]{1,64}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONTROL_NAME = re.compile(r"[\w-]+")
UNKNOWN = Licence("unknown", commercial=None)

SAMPLER_OF = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DDIMScheduler": "ddim",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
"""Schedulers that are served as they are; every other is replaced by DDIM."""
LCM_GUIDANCE = 8.5
"""Of diffusers' own LCM pipeline."""


class Choice(NamedTuple):
    """The model to serve and, for the log, why it is this one."""

    spec: ModelSpec
    why: str


def choose(
    name: str,
    *,
    revision: str | None = None,
    vae: str = "auto",
    recipe: str = "auto",
    unet: str = "",
) -> Choice:
    """`auto`: SDXL Turbo where there is an NVIDIA card and its weights are cached, else the embedded model.

    `unet` names weights that take the place of the model's own (see `file_of`). Gigabytes and non-commercial
    weights are never fetched unasked. Raises ModelError for what cannot be served.
    """
    choice = Choice(resolve(name, revision, recipe), "asked for") if name != "auto" else _auto()
    spec = replace(choice.spec, vae=vae, unet=file_of(unet) if unet else choice.spec.unet)
    vae_of(spec)
    return choice._replace(spec=spec)


def choose_all(settings: Settings) -> list[Choice]:
    """What the settings ask for, the default first. Raises ModelError, also where two models have one name."""
    if len(settings.model) > 1:
        for flag in ("revision", "recipe", "unet"):
            if getattr(settings, flag) not in (None, "auto", ""):
                cure = ": write ID@REVISION" if flag == "revision" else ""
                raise ModelError(f"--{flag} is for one model, and {len(settings.model)} are asked for{cure}")
    choices = [
        choose(
            name,
            revision=settings.revision,
            vae=settings.vae,
            recipe=settings.recipe,
            unet=settings.unet,
        )
        for name in settings.model
    ]
    names = [choice.spec.name for choice in choices]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ModelError(f"--model: two of the models are called {twice}: requests could not tell them apart")
    return with_controls(choices, settings.controlnet) if settings.controlnet else choices


def with_controls(choices: list[Choice], asked: Sequence[str]) -> list[Choice]:
    """`choices` with the ControlNets asked for beside each that takes any. Raises ModelError where none does."""
    families = {each.family for each in CONTROLS}
    takers = [choice for choice in choices if choice.spec.family in families] or choices[:1]
    if len({choice.spec.family for choice in takers}) > 1 and any("=" in each for each in asked):
        raise ModelError(
            "--controlnet NAME=SOURCE is for one family of models, and SDXL and SD are asked for"
        )
    return [
        choice._replace(
            spec=replace(choice.spec, controls=tuple(control_of(each, choice.spec) for each in asked))
        )
        if choice in takers
        else choice
        for choice in choices
    ]


def _auto() -> Choice:
    turbo = CATALOG["sdxl-turbo"]
    if not has_nvidia_card():
        return Choice(CATALOG["embedded"], "no NVIDIA card here; --model NAME serves another")
    if hub.is_cached(turbo):
        return Choice(turbo, "an NVIDIA card, and its weights are cached")
    return Choice(CATALOG["embedded"], f"SDXL Turbo's weights are not cached; {how_to_get(turbo)}")


def how_to_get(spec: ModelSpec) -> str:
    """The command that fetches the weights, their size and their terms."""
    size = f"{spec.download_bytes / 1e9:.1f} GB"
    return f"`onestroke fetch {spec.name}` downloads {size} ({spec.licence.name}, {spec.licence.terms})"


def has_nvidia_card() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def resolve(name: str, revision: str | None = None, recipe: str = "auto") -> ModelSpec:
    """The model that `name` stands for, at `revision` (hub ids only; also written ID@REVISION).

    A hub id that is not cached is looked up: its configuration is fetched, its weights are not. Raises
    ModelError for what is not a model or cannot be served, and says what would work.
    """
    if recipe != "auto" and recipe not in RECIPES:
        raise ModelError(f"no recipe {recipe!r}: give auto or one of {', '.join(RECIPES)}")
    path = Path(name).expanduser()
    if name not in CATALOG and path.exists():
        if revision is not None:
            raise ModelError(f"{name} is on this machine: a revision goes with a hub id or a catalog name")
        return _from_folder(path, recipe) if path.is_dir() else _from_file(path, recipe)
    source, _, at = name.partition("@")
    revision = revision or at or None
    row = CATALOG.get(source) or next((spec for spec in CATALOG.values() if spec.source == source), None)
    if row:
        if row.is_local and revision:
            raise ModelError(f"{row.name} has no revisions")
        return _sampled_as(replace(row, revision=revision or row.revision), recipe)
    if HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        check_not_pickled(source)
        return _from_hub(source, revision, recipe)
    known = ", ".join(CATALOG)
    raise ModelError(
        f"no model {name!r}: give one of {known}, a hub id (owner/name), or the path of a diffusers folder or of a "
        ".safetensors file"
    )


def vae_of(spec: ModelSpec) -> VaeSpec | Path | None:
    """What `spec.vae` stands for: a VAE to fetch, a folder or file on this machine, None for the model's own.

    "auto" is the model's own; "full" the catalog's fp16-safe one for SDXL, the model's own for the SD family, which
    is safe; "tiny" the catalog's tiny one; with latents of its own a model has its own VAE for both. Else it is a
    VAE's catalog name, a path, or a hub id. Raises ModelError for what is none of these, and for a VAE of another
    family.
    """
    name = spec.vae
    if name == "auto" or (name in ("full", "tiny") and spec.own_latents):
        return None
    if spec.family not in {vae.family for vae in VAES.values()}:
        raise ModelError(f"{spec.name} has a VAE of its own and takes no other: give --vae auto")
    if name in ("full", "tiny"):
        kinds = (vae for vae in VAES.values() if (vae.family, vae.kind) == (spec.family, name))
        return next(kinds, None)
    known = VAES.get(name) or next((vae for vae in VAES.values() if vae.source == name), None)
    if known:
        if known.family != spec.family:
            raise ModelError(
                f"{known.name} reads the latents of {known.family} models; {spec.name} is {spec.family}"
            )
        return known
    path = Path(name).expanduser()
    if path.exists():
        check_not_pickled(path.name)
        return path.resolve()
    source, _, revision = name.partition("@")
    if HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        check_not_pickled(source)
        return VaeSpec(source, source, spec.family, "full", UNKNOWN, revision or None)
    raise ModelError(
        f"no VAE {name!r}: give auto, full, tiny, {', '.join(VAES)}, a hub id, or the path of a folder or a file"
    )


def file_of(name: str, default: str = "") -> FileSpec:
    """What `name` stands for: a path, or a hub id as owner/name[@revision][:file], `default` for the file.

    Raises ModelError.
    """
    path = Path(name).expanduser()
    if path.exists():
        check_not_pickled(path.name)
        return FileSpec(str(path.resolve()))
    at, _, file = name.partition(":")
    source, _, revision = at.partition("@")
    if HUB_ID.fullmatch(source) and (file or not source.endswith(".safetensors")):
        check_not_pickled(file or source)
        return FileSpec(source, file or default, revision or None)
    raise ModelError(f"{name!r} is neither a path on this machine nor a hub id (owner/name:file.safetensors)")


def adapter_of(name: str, source: str) -> AdapterSpec:
    """A LoRA by the name that requests give it. Raises InvalidRequest for a name that cannot be, ModelError."""
    if not ADAPTER_NAME.fullmatch(name):
        raise InvalidRequest("name must be of letters, digits, '-', '_' and '.', 64 at most", "name")
    return AdapterSpec(name, file_of(source, LORA_FILE))


def adapters_from(settings: Settings) -> tuple[AdapterSpec, ...]:
    """The adapters to start with. Raises ModelError."""
    found: dict[str, AdapterSpec] = {}
    for each in settings.adapter:
        name, equals, source = each.partition("=")
        if not equals or name in found:
            raise ModelError(f"--adapter {each}: write NAME=SOURCE, each name once")
        try:
            found[name] = adapter_of(name, source)
        except OnestrokeError as error:
            raise ModelError(f"--adapter {each}: {error.message}") from error
    return tuple(found.values())


def control_of(asked: str, spec: ModelSpec) -> ControlSpec:
    """The ControlNet that `asked` stands for beside `spec`: NAME=SOURCE (see `file_of`), or a catalog name.

    Raises ModelError.
    """
    name, given, source = asked.partition("=")
    known = [each for each in CONTROLS if each.family == spec.family]
    if not known:
        raise ModelError(f"{spec.name} takes no ControlNet: SDXL and SD models do")
    if given:
        if not CONTROL_NAME.fullmatch(name):
            raise ModelError(f"{asked!r}: a ControlNet's name is made of letters, digits, - and _")
        return ControlSpec(name, spec.family, replace(file_of(source), variant=spec.variant), UNKNOWN)
    if found := next((each for each in known if each.name == name), None):
        return found
    names = ", ".join(each.name for each in known)
    raise ModelError(
        f"no ControlNet {name!r}: give {names}, or NAME=SOURCE with a folder, a .safetensors file or a hub id"
    )


def _sampled_as(spec: ModelSpec, recipe: str) -> ModelSpec:
    """`spec` with another row's sampler, steps, guidance, sizes and scheduler values."""
    if recipe == "auto":
        return spec
    row = RECIPES[recipe]
    if row.family != spec.family:
        raise ModelError(f"the recipe {recipe} is for {row.family} models; {spec.name} is {spec.family}")
    return replace(
        spec,
        sampler=row.sampler,
        default_steps=row.default_steps,
        max_steps=max(row.max_steps, 50),
        only_steps=row.only_steps,
        guidance_scale=row.guidance_scale,
        sizes=row.sizes,
        timesteps=row.timesteps,
        call=row.call,
        scheduler=row.scheduler,
    )


def _from_file(path: Path, recipe: str) -> ModelSpec:
    check_not_pickled(path.name)
    found = checkpoints.recognise(path)
    chosen = found.recipe if recipe == "auto" else recipe
    spec = ModelSpec(
        name=path.stem,
        source=str(path.resolve()),
        family=found.layout.family,
        description=f"the file {path.name}",
        licence=UNKNOWN,
        note=f"{found.layout.description}, sampled like {chosen}; --recipe takes another",
    )
    return _sampled_as(spec, chosen)


def _from_folder(folder: Path, recipe: str) -> ModelSpec:
    if not (folder / INDEX).is_file():
        inside = sorted(folder.glob("*.safetensors"))
        hint = f"; give the path of a file in it, such as {inside[0]}" if inside else ""
        raise ModelError(f"{folder} has no {INDEX}: it is not a diffusers folder{hint}")
    spec = _described(folder, folder.resolve().name, f"the diffusers folder {folder.name}")
    names = names_in(folder)
    try:
        spec = replace(
            spec,
            source=str(folder.resolve()),
            variant=weights_of(names, own_parts(spec, names)[0], None).variant,
        )
        files_of(spec, names)
    except ModelError as error:
        raise ModelError(f"{folder}: {error.message}") from error
    return _sampled_as(spec, recipe)


def _from_hub(source: str, revision: str | None, recipe: str) -> ModelSpec:
    spec = _described(hub.describe(source, revision), source, f"{source} from the hub")
    url = f"https://huggingface.co/{source}"
    return _sampled_as(
        replace(spec, source=source, revision=revision, licence=Licence("unknown", commercial=None, url=url)),
        recipe,
    )


def _described(folder: Path, name: str, description: str) -> ModelSpec:
    """A row made from a folder's configuration files."""
    index = read_json(folder / INDEX)
    family = family_of(index, name)
    if family == "muse":
        return _described_muse(folder, name, description)
    if family == "diffusers":
        return _described_whole(folder, name, description, index["_class_name"])
    scheduler = read_json(folder / SCHEDULER)
    unet = read_json(folder / "unet" / "config.json")
    vae = read_json(folder / "vae" / "config.json")
    _check_unet(unet, name)
    kind = str(scheduler.get("_class_name"))
    served = kind in SAMPLER_OF and not _is_sde_or_third_order(scheduler)
    sampler = SAMPLER_OF[kind] if served else "ddim"
    replaced = "" if served else f"its {kind} is not served; DDIM is served in its place"
    steps, guidance = _steps_and_guidance(scheduler, sampler, family)
    embeds_guidance = unet.get("time_cond_proj_dim") is not None
    return ModelSpec(
        name=name,
        source=str(folder),
        family=family,
        description=description,
        licence=UNKNOWN,
        sampler=sampler,
        default_steps=steps,
        max_steps=100,
        guidance_scale=LCM_GUIDANCE if embeds_guidance else guidance,
        embeds_guidance=embeds_guidance,
        sizes=_sizes(unet, vae),
        note=replaced,
    )


def _described_muse(folder: Path, name: str, description: str) -> ModelSpec:
    tokens = read_json(folder / "transformer" / "config.json").get("sample_size", 16)
    levels = len(read_json(folder / "vqvae" / "config.json").get("block_out_channels", ())) or 5
    scale = 2 ** (levels - 1)
    sizes, steps = [(tokens * scale, tokens * scale)], AMUSED.default_steps
    if (larger := folder / SUPER_RESOLUTION / "config.json").exists():
        side = read_json(larger)["masked"]["sample_size"] * scale
        sizes, steps = [(side, side), *sizes], steps * 4 // 3
    return _like(AMUSED, folder, name, description, sizes=tuple(sizes), default_steps=steps)


def _described_whole(folder: Path, name: str, description: str, kind: str) -> ModelSpec:
    """A pipeline's own defaults are not known here: those of the catalog's row of its class are taken."""
    row = next((row for row in CATALOG.values() if row.pipeline == kind), WHOLE)
    note = f"a {kind}, sampled like {row.name}; --recipe takes another row's, a request says its own"
    return _like(row, folder, name, description, pipeline=kind, note=note)


def _like(row: ModelSpec, folder: Path, name: str, description: str, **values: Any) -> ModelSpec:
    """The model in `folder`, sampled as `row` is; what the row knows of its own files is not known of these."""
    return replace(
        row,
        name=name,
        source=str(folder),
        revision=None,
        description=description,
        licence=UNKNOWN,
        download_bytes=0,
        memory_bytes=0,
        **values,
    )


def _check_unet(unet: dict[str, Any], name: str) -> None:
    """Raise ModelError for UNets that want more than text and noise."""
    channels = unet.get("in_channels", 4)
    if channels != unet.get("out_channels", 4):
        raise ModelError(
            f"{name} takes {channels} channels (inpainting or the like): only text-to-image is served"
        )


def _is_sde_or_third_order(scheduler: dict[str, Any]) -> bool:
    """DPM++ in the forms that hold more than one tensor, or draw noise that is no table's."""
    return scheduler.get("solver_order", 2) > 2 or "sde" in str(scheduler.get("algorithm_type"))


def _steps_and_guidance(scheduler: dict[str, Any], sampler: str, family: str) -> tuple[int, float]:
    """Models whose scheduler spaces its steps to the very end are distilled to a few; LCM and TCD say so too."""
    if sampler in ("lcm", "tcd"):
        return 4, 0.0
    if scheduler.get("timestep_spacing") == "trailing":
        return 1, 0.0
    return (30, 5.0) if family == "sdxl" else (50, 7.5)


def _sizes(unet: dict[str, Any], vae: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """The size that the UNet was trained at; all of SDXL's for a megapixel."""
    sample, levels = unet.get("sample_size"), len(vae.get("block_out_channels", ())) or 4
    if not isinstance(sample, int):
        return ((512, 512),)
    side = sample * 2 ** (levels - 1)
    return SDXL_SIZES if side == 1024 else ((side, side),)

"""Models as data, rows of the types in `specs`: what is served, where it comes from and how it is sampled.

`choosing` turns what an operator asks for into one of these rows; `hub` brings its files to this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from onestroke.models.specs import ControlSpec, FileSpec, Licence, ModelSpec, VaeSpec

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
CONFIGS = Path(__file__).parent / "configs"
"""Diffusers folders without weights, one for each original layout: what a single file leaves unsaid."""
CLIP_MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"

NO_TEXT = "no legible text, faces and people often go wrong, compositions of several things too"
"""What the makers of the Stable Diffusion family say of theirs."""
STABILITY = "Stability AI non-commercial community licence"
MIT = Licence("MIT", commercial=True)
SDXL_SIZES = (
    (1024, 1024),
    *((1152, 896), (896, 1152), (1216, 832), (832, 1216)),
    *((1344, 768), (768, 1344), (1536, 640), (640, 1536)),
)
"""The shapes that SDXL was trained on, about a megapixel each."""
SD_SIZES = ((512, 512), (512, 768), (768, 512))
TRAILING = (("prediction_type", "epsilon"), ("timestep_spacing", "trailing"))
EPSILON = (("prediction_type", "epsilon"),)
LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file."""

AMUSED = ModelSpec(
    name="amused-256",
    source="amused/amused-256",
    revision="1d11dd57b9d3bc9c5b91bb8be8d426f4db90f5c4",
    family="muse",
    description="Muse in its open form, 256x256 in 12 steps: tokens of a picture, unmasked many at a time",
    limits="a research release: little detail, weak faces, no legible text; its one size",
    licence=Licence(
        "CreativeML Open RAIL++-M", commercial=True, url="https://huggingface.co/amused/amused-256"
    ),
    sampler="amused",
    default_steps=12,
    max_steps=100,
    guidance_scale=10.0,
    sizes=((256, 256),),
    own_latents=True,
    download_bytes=1_750_000_000,
    memory_bytes=3_000_000_000,
)

WHOLE = ModelSpec(
    name="any other pipeline",
    source="",
    family="diffusers",
    description="",
    licence=Licence("unknown", commercial=None),
    variant=None,
    sampler="own",
    default_steps=30,
    max_steps=100,
    guidance_scale=5.0,
    sizes=(*SDXL_SIZES, (512, 512)),
    own_latents=True,
    reads_pictures=False,
)
"""Drawn by its own pipeline of diffusers, one call a picture."""

CATALOG: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="embedded",
            source=str(EMBEDDED_FOLDER),
            family="sdxl",
            description="Onestroke's own small model: emoji-like things on coloured backgrounds, one step, any CPU",
            licence=Licence("Apache-2.0", commercial=True, url="https://www.apache.org/licenses/LICENSE-2.0"),
            sampler="euler",
            crops=(-32, 0, 32),
            limits="its 1,076 things, four at once at most, 12 backgrounds, five styles: no scenes or writing",
            max_steps=8,
            variant=None,
            own_latents=True,
            reads_pictures=False,
            memory_bytes=500_000_000,
        ),
        ModelSpec(
            name="sdxl-turbo",
            source="stabilityai/sdxl-turbo",
            revision="71153311d3dbb46851df1931d3ca6e939de83304",
            family="sdxl",
            description="SDXL Turbo (ADD), 512x512 in 1-4 steps; wants a GPU",
            limits=f"{NO_TEXT}; 512x512 alone, made to go unguided",
            licence=Licence(STABILITY, commercial=False, url="https://huggingface.co/stabilityai/sdxl-turbo"),
            max_steps=8,
            scheduler=TRAILING,
            download_bytes=6_940_000_000,
            memory_bytes=10_500_000_000,
        ),
        ModelSpec(
            name="sd-turbo",
            source="stabilityai/sd-turbo",
            revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
            family="sd",
            description="SD-Turbo (SD 2.1 distilled by ADD), 512x512 in 1-4 steps; a third of SDXL Turbo's size",
            limits=f"{NO_TEXT}; follows prompts less closely than SDXL Turbo; 512x512 alone, made to go unguided",
            licence=Licence(STABILITY, commercial=False, url="https://huggingface.co/stabilityai/sd-turbo"),
            max_steps=8,
            scheduler=TRAILING,
            download_bytes=2_580_000_000,
            memory_bytes=4_000_000_000,
        ),
        ModelSpec(
            name="sdxl-base",
            source="stabilityai/stable-diffusion-xl-base-1.0",
            revision="462165984030d82259a11f4367a4eed129e94a7b",
            family="sdxl",
            description="SDXL 1.0 base, 1024x1024 in 30 steps",
            limits=f"{NO_TEXT}; sizes far from a megapixel",
            licence=Licence(
                "CreativeML Open RAIL++-M",
                commercial=True,
                url="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0",
            ),
            sampler="euler",
            default_steps=30,
            guidance_scale=5.0,
            sizes=SDXL_SIZES,
            scheduler=EPSILON,
            download_bytes=6_940_000_000,
            memory_bytes=12_000_000_000,
        ),
        ModelSpec(
            name="sd15",
            source="stable-diffusion-v1-5/stable-diffusion-v1-5",
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            family="sd",
            description="Stable Diffusion 1.5, 512x512 in 50 steps: the baseline; its safety checker is not run",
            limits=f"{NO_TEXT}; prompts in other languages than English; sizes beyond 768 repeat things",
            licence=Licence(
                "CreativeML Open RAIL-M",
                commercial=True,
                url="https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5",
            ),
            sampler="ddim",
            default_steps=50,
            max_steps=100,
            guidance_scale=7.5,
            sizes=SD_SIZES,
            scheduler=EPSILON,
            download_bytes=2_130_000_000,
            memory_bytes=3_500_000_000,
            note="its own PNDM sampler keeps a memory between steps; DDIM is served in its place",
        ),
        AMUSED,
        replace(
            AMUSED,
            name="amused-512",
            source="amused/amused-512",
            revision=None,
            description="Muse in its open form, 512x512 in 12 steps",
            licence=replace(AMUSED.licence, url="https://huggingface.co/amused/amused-512"),
            sizes=((512, 512),),
            memory_bytes=3_500_000_000,
        ),
    )
}


def _distilled(base: str, name: str, description: str, licence: Licence, **values: Any) -> ModelSpec:
    """A row over `base`, unguided and with the steps it was distilled to."""
    known = CATALOG[base]
    extras = [*([values["unet"]] if "unet" in values else []), *values.get("loras", ())]
    own = UNET_BYTES[base] if "unet" in values else 0
    steps = values.pop("steps")
    return replace(
        known,
        name=name,
        description=description,
        licence=licence,
        default_steps=steps,
        max_steps=steps,
        only_steps=(steps,),
        **{
            "guidance_scale": 0.0,
            "note": "",
            "download_bytes": known.download_bytes - own + sum(extra.download_bytes for extra in extras),
            **values,
        },
    )


UNET_BYTES = {"sdxl-base": 5_140_000_000}
"""Of the published fp16 weights: what a row with another UNet does not fetch."""


def _over_sdxl() -> Iterator[ModelSpec]:
    rail = "CreativeML Open RAIL++-M"
    dmd2 = Licence("CC BY-NC 4.0", commercial=False, url="https://huggingface.co/tianweiy/DMD2")
    at = ("tianweiy/DMD2", "be22767697a1f3ca656b73c776e15fa335c86c6c")
    four: dict[str, Any] = {"steps": 4, "sampler": "lcm", "timesteps": ((4, (999, 749, 499, 249)),)}
    yield _distilled(
        "sdxl-base",
        "dmd2-4step",
        "SDXL distilled by DMD2, 1024x1024 in 4 steps",
        dmd2,
        unet=FileSpec(at[0], "dmd2_sdxl_4step_unet_fp16.safetensors", at[1], 5_140_000_000),
        **four,
    )
    yield _distilled(
        "sdxl-base",
        "dmd2-4step-lora",
        "The same as a LoRA merged into SDXL base",
        dmd2,
        loras=(FileSpec(at[0], "dmd2_sdxl_4step_lora_fp16.safetensors", at[1], 393_736_496),),
        **four,
    )
    lightning = Licence(rail, commercial=True, url="https://huggingface.co/ByteDance/SDXL-Lightning")
    at = ("ByteDance/SDXL-Lightning", "c9a24f48e1c025556787b0c58dd67a091ece2e44")
    for steps in (1, 2, 4, 8):
        prediction, kind = ("sample", "unet_x0") if steps == 1 else ("epsilon", "unet")
        file = f"sdxl_lightning_{steps}step_{kind}.safetensors"
        common: dict[str, Any] = {
            "steps": steps,
            "sampler": "euler",
            "scheduler": (("prediction_type", prediction), ("timestep_spacing", "trailing")),
        }
        yield _distilled(
            "sdxl-base",
            f"sdxl-lightning-{steps}step",
            f"SDXL-Lightning, 1024x1024 in {steps} step{'s' * (steps > 1)}"
            + (" (an experiment of its makers')" if steps == 1 else ""),
            lightning,
            unet=FileSpec(at[0], file, at[1], 5_140_000_000),
            **common,
        )
        if steps > 1:
            file = f"sdxl_lightning_{steps}step_lora.safetensors"
            yield _distilled(
                "sdxl-base",
                f"sdxl-lightning-{steps}step-lora",
                "The same as a LoRA merged into SDXL base",
                lightning,
                loras=(FileSpec(at[0], file, at[1], 394_000_000),),
                **common,
            )
    yield replace(
        CATALOG["sdxl-base"],
        name="lcm-lora-sdxl",
        description="SDXL with the LCM LoRA merged in, 1024x1024 in 2-8 steps",
        licence=Licence(rail, commercial=True, url="https://huggingface.co/latent-consistency/lcm-lora-sdxl"),
        loras=(
            FileSpec(
                "latent-consistency/lcm-lora-sdxl",
                LORA_FILE,
                "a18548dd4956b174ec5b0d78d340c8dae0a129cd",
                394_000_000,
            ),
        ),
        sampler="lcm",
        default_steps=4,
        max_steps=8,
        guidance_scale=1.0,
        download_bytes=7_330_000_000,
    )
    yield replace(
        CATALOG["sdxl-base"],
        name="lcm-sdxl",
        description="SDXL distilled whole by LCM, 1024x1024 in 2-8 steps; guidance costs nothing",
        licence=Licence(rail, commercial=True, url="https://huggingface.co/latent-consistency/lcm-sdxl"),
        unet=FileSpec(
            "latent-consistency/lcm-sdxl",
            "",
            "843cb4058e2bb79edc70a6d8002e1a96feddfd14",
            5_140_000_000,
            variant="fp16",
        ),
        sampler="lcm",
        default_steps=4,
        max_steps=8,
        guidance_scale=8.0,
        embeds_guidance=True,
    )


def _hyper() -> Iterator[ModelSpec]:
    licence = Licence("see its LICENSE.md", commercial=None, url="https://huggingface.co/ByteDance/Hyper-SD")
    at = ("ByteDance/Hyper-SD", "d0e3aae44029cca2cd1ba683484490c27cdd75a1")
    yield _distilled(
        "sdxl-base",
        "hyper-sdxl-1step",
        "SDXL distilled by Hyper-SD, 1024x1024 in 1 step",
        licence,
        steps=1,
        sampler="lcm",
        timesteps=((1, (800,)),),
        unet=FileSpec(at[0], "Hyper-SDXL-1step-Unet.safetensors", at[1], 10_300_000_000),
    )
    for base, short, file, size in (
        ("sdxl-base", "sdxl", "SDXL", 787_000_000),
        ("sd15", "sd15", "SD15", 269_000_000),
    ):
        for steps in (2, 4, 8):
            yield _distilled(
                base,
                f"hyper-{short}-{steps}step-lora",
                f"Hyper-SD's LoRA merged into {CATALOG[base].description.partition(',')[0]}, {steps} steps",
                licence,
                steps=steps,
                sampler="ddim",
                scheduler=TRAILING,
                loras=(FileSpec(at[0], f"Hyper-{file}-{steps}steps-lora.safetensors", at[1], size),),
            )


def _of_sd() -> Iterator[ModelSpec]:
    sd15 = CATALOG["sd15"]
    yield replace(
        sd15,
        name="sd14",
        source="CompVis/stable-diffusion-v1-4",
        revision="133a221b8aa7292a167afc5127cb63fb5005638b",
        description="Stable Diffusion 1.4, 512x512 in 50 steps; its safety checker is not run",
        licence=replace(sd15.licence, url="https://huggingface.co/CompVis/stable-diffusion-v1-4"),
    )
    yield replace(
        sd15,
        name="lcm-lora-sd15",
        description="Stable Diffusion 1.5 with the LCM LoRA merged in, 512x512 in 2-8 steps",
        loras=(
            FileSpec(
                "latent-consistency/lcm-lora-sdv1-5",
                LORA_FILE,
                "cf2fced511dbe7e26c8d1d397e728fbab875db4b",
                135_000_000,
            ),
        ),
        sampler="lcm",
        default_steps=4,
        max_steps=8,
        guidance_scale=1.0,
        download_bytes=sd15.download_bytes + 135_000_000,
        note="",
    )
    yield replace(
        sd15,
        name="lcm-dreamshaper",
        source="SimianLuo/LCM_Dreamshaper_v7",
        revision=None,
        variant=None,
        description="DreamShaper distilled by LCM, 512x512 in 2-8 steps; guidance costs nothing",
        licence=replace(MIT, url="https://huggingface.co/SimianLuo/LCM_Dreamshaper_v7"),
        sampler="lcm",
        default_steps=4,
        max_steps=8,
        guidance_scale=8.5,
        embeds_guidance=True,
        download_bytes=4_270_000_000,
        memory_bytes=4_500_000_000,
        note="its safety checker is not run",
    )
    yield ModelSpec(
        name="sdxs-512",
        source="IDKiro/sdxs-512-0.9",
        revision="4e980a1bd4066a81ee10cef6e231a25b2c125520",
        variant=None,
        family="sd",
        description="SDXS (a small UNet distilled from SD 2.1), 512x512 in 1 step, with a tiny VAE of its own",
        limits=f"{NO_TEXT}; little detail; 512x512 in one step alone",
        licence=Licence(
            "CreativeML Open RAIL++-M", commercial=True, url="https://huggingface.co/IDKiro/sdxs-512-0.9"
        ),
        sampler="ddim",
        default_steps=1,
        max_steps=1,
        scheduler=TRAILING,
        download_bytes=2_700_000_000,
        memory_bytes=4_000_000_000,
    )


def _whole() -> Iterator[ModelSpec]:
    """Memory is of all weights in bf16, by their numbers of parameters, and a tenth."""
    apache = Licence("Apache-2.0", commercial=True)
    yield replace(
        WHOLE,
        name="sana-sprint",
        source="Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
        pipeline="SanaSprintPipeline",
        description="SANA-Sprint 1.6B, 1024x1024 in 1-4 steps (2 by default), behind Gemma 2",
        limits="hands, long writing, full photorealism; no negative prompt; no joining mid-picture",
        licence=Licence(
            "NVIDIA NSCL v2-custom, Gemma terms",
            commercial=False,
            url="https://huggingface.co/Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
        ),
        default_steps=2,
        max_steps=4,
        guidance_scale=4.5,
        sizes=SDXL_SIZES,
        download_bytes=9_700_000_000,
        memory_bytes=10_000_000_000,
    )
    yield replace(
        WHOLE,
        name="flux1-schnell",
        source="black-forest-labs/FLUX.1-schnell",
        pipeline="FluxPipeline",
        description="FLUX.1 schnell, 12B, 1024x1024 in 1-4 steps",
        limits="no guidance or negative prompt; its style hangs on the wording; no joining mid-picture",
        licence=replace(apache, url="https://huggingface.co/black-forest-labs/FLUX.1-schnell"),
        default_steps=4,
        guidance_scale=0.0,
        call=(("max_sequence_length", 256),),
        download_bytes=33_700_000_000,
        memory_bytes=37_000_000_000,
    )
    yield replace(
        WHOLE,
        name="flux2-klein",
        source="black-forest-labs/FLUX.2-klein-4B",
        pipeline="Flux2KleinPipeline",
        description="FLUX.2 klein 4B, 1024x1024 in 4 steps, behind Qwen3",
        limits="no guidance or negative prompt; its editing of pictures is not served; no joining mid-picture",
        licence=replace(apache, url="https://huggingface.co/black-forest-labs/FLUX.2-klein-4B"),
        default_steps=4,
        guidance_scale=1.0,
        download_bytes=16_000_000_000,
        memory_bytes=17_500_000_000,
    )
    yield replace(
        WHOLE,
        name="z-image-turbo",
        source="Tongyi-MAI/Z-Image-Turbo",
        pipeline="ZImagePipeline",
        description="Z-Image-Turbo, 6B, 1024x1024 in 9 steps, behind Qwen3",
        limits="little variety from seed to seed; unguided by design; no joining mid-picture",
        licence=replace(apache, url="https://huggingface.co/Tongyi-MAI/Z-Image-Turbo"),
        default_steps=9,
        guidance_scale=0.0,
        download_bytes=20_500_000_000,
        memory_bytes=22_500_000_000,
    )


CATALOG.update({spec.name: spec for make in (_over_sdxl, _hyper, _of_sd, _whole) for spec in make()})

SDXL_RAIL = CATALOG["sdxl-base"].licence.name


def _control(
    name: str, family: str, source: str, licence: str, size: int, variant: str | None
) -> ControlSpec:
    url = f"https://huggingface.co/{source}"
    weights = FileSpec(source, download_bytes=size, variant=variant)
    return ControlSpec(name, family, weights, Licence(licence, commercial=True, url=url))


CONTROLS: tuple[ControlSpec, ...] = (
    *(
        _control(kind, "sdxl", f"diffusers/controlnet-{kind}-sdxl-1.0", SDXL_RAIL, 2_500_000_000, "fp16")
        for kind in ("canny", "depth")
    ),
    _control("scribble", "sdxl", "xinsir/controlnet-scribble-sdxl-1.0", "Apache-2.0", 2_500_000_000, None),
    *(
        _control(
            kind,
            "sd",
            f"lllyasviel/control_{version}_sd15_{kind}",
            "CreativeML Open RAIL-M",
            723_000_000,
            "fp16",
        )
        for kind, version in (("canny", "v11p"), ("depth", "v11f1p"), ("scribble", "v11p"))
    ),
)
"""The common ones: edges, depth maps and scribbles; for the SD family those of SD 1.5."""

SD21 = replace(
    CATALOG["sd15"],
    name="sd21",
    source="",
    sizes=((768, 768),),
    scheduler=(("prediction_type", "v_prediction"),),
)
DMD2_1STEP = replace(
    CATALOG["dmd2-4step"],
    name="dmd2-1step",
    unet=None,
    default_steps=1,
    max_steps=1,
    only_steps=(1,),
    timesteps=((1, (399,)),),
)
RECIPES = {
    **CATALOG,
    "dmd2-1step": DMD2_1STEP,
    "sd21": SD21,
    "sd21-base": replace(SD21, name="sd21-base", sizes=SD_SIZES, scheduler=EPSILON),
}
"""How files are sampled that do not say it themselves. SD 2.1 is here for its files, and no row offers to fetch it;
so is DMD2's one-step UNet, which is published as a pickle alone."""

VAES: dict[str, VaeSpec] = {
    vae.name: vae
    for vae in (
        VaeSpec(
            name="sdxl-vae-fp16-fix",
            source="madebyollin/sdxl-vae-fp16-fix",
            revision="207b116dae70ace3637169f1ddd2434b91b3a8cd",
            family="sdxl",
            kind="full",
            licence=MIT,
            download_bytes=334_643_238,
        ),
        VaeSpec(
            name="taesdxl",
            source="madebyollin/taesdxl",
            family="sdxl",
            kind="tiny",
            licence=MIT,
            download_bytes=9_793_292,
        ),
        VaeSpec(
            name="taesd",
            source="madebyollin/taesd",
            revision="614f76814bbe30edbe2e627ace1c2234c81a2c0e",
            family="sd",
            kind="tiny",
            licence=MIT,
            download_bytes=9_793_292,
        ),
    )
}
"""SDXL's own VAE overflows in fp16, hence the first. The SD family's own is safe as it is."""

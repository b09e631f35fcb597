"""`onestroke serve | generate | fetch | warm | models | doctor`: flags in, the right part started.

Heavy imports happen inside the commands: `--help` and a wrong flag answer at once, and nothing here ever
imports torch.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onestroke import __version__
from onestroke.errors import OnestrokeError

cli = typer.Typer(
    name="onestroke",
    help="Real-time text-to-image server: type, and a fresh picture follows every key.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MODEL_HELP = (
    "auto, a catalog name (see `onestroke models`), a hub id (owner/name), a diffusers folder, or a "
    ".safetensors file (SDXL, SD 2.1, SD 1.5)."
)
ModelFlag = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]
ModelsFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help=f"{MODEL_HELP} Several times: several models, the first by default. [default: auto]"
    ),
]
RevisionFlag = Annotated[
    str | None, typer.Option(help="Commit, branch or tag of a hub id; also written ID@REVISION.")
]
VaeFlag = Annotated[
    str | None,
    typer.Option(
        help="auto: the model's own; full: SDXL's fp16-safe one; tiny: a fast small one (TAESD); or a VAE's "
        "hub id, folder or .safetensors file."
    ),
]
UnetFlag = Annotated[
    str | None,
    typer.Option(
        help="A UNet in place of the model's own: .safetensors file, folder, or hub id as owner/name:file."
    ),
]
ControlFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="A ControlNet beside the model: canny, depth or scribble, or NAME=SOURCE with a folder, .safetensors "
        "file or hub id; may be given again."
    ),
]
RecipeFlag = Annotated[
    str | None,
    typer.Option(
        help="Sample as this catalog row is: steps, sampler, guidance, sizes. For files, which do not say it; "
        "also sd21 and sd21-base. [default: auto]"
    ),
]
AdapterFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="A LoRA that requests may name, as NAME=FILE, NAME=FOLDER or NAME=owner/name:file; repeatable. "
        "ONESTROKE_ADAPTER: comma-separated.",
    ),
]
DeviceFlag = Annotated[
    str | None,
    typer.Option(help="auto (all NVIDIA cards), cpu, cuda or mps; several, comma-separated: a worker each."),
]
DTypeFlag = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
CompileFlag = Annotated[
    str | None,
    typer.Option(
        help="torch.compile: off, regional (the repeated blocks), full (whole networks). "
        "[default: auto: regional on CUDA, off elsewhere]"
    ),
]
GraphsFlag = Annotated[
    str | None,
    typer.Option(help="on, off: a CUDA graph for each verb and batch size. [default: auto: on on CUDA]"),
]
FuseFlag = Annotated[
    str | None,
    typer.Option(
        help="on, off: self-attention's query, key and value in one product. [default: auto: on on CUDA]"
    ),
]
ChannelsLastFlag = Annotated[
    str | None, typer.Option(help="on, off: memory format of the UNet and the decoder. [default: auto: on]")
]
EncodeKvFlag = Annotated[
    str | None,
    typer.Option(
        help="on, off: cross-attention's keys and values made and cached with the prompt. "
        "[default: auto: on on CUDA]"
    ),
]
AttentionFlag = Annotated[
    str | None,
    typer.Option(help="flash, cudnn, efficient, math or xformers. [default: auto: measured on CUDA]"),
]
DecoderFlag = Annotated[
    str | None,
    typer.Option(
        help="full, tiny, or auto: tiny for whoever types and full for REST, where a tiny one is on this machine. "
        "[default: auto]"
    ),
]
QuantizeFlag = Annotated[
    str | None,
    typer.Option(help="fp8: the UNet's linear layers in eight bits (Hopper, Ada; compiled). [default: off]"),
]
PromptCacheFlag = Annotated[
    int | None, typer.Option(help="MiB of encoded prompts kept; 0: 64, and 2048 on CUDA. [default: 0]")
]
CacheDirFlag = Annotated[
    str | None,
    typer.Option(help="Folder of compiled artifacts. [default: onestroke in the user's cache folder]"),
]
ThreadsFlag = Annotated[int | None, typer.Option(help="CPU threads of the worker; 0: all cores.")]


def main() -> None:
    try:
        cli()
    except OnestrokeError as error:
        fail(error.message)


def fail(message: str) -> None:
    typer.secho(f"onestroke: {message}", err=True, fg="red")
    raise SystemExit(1)


@cli.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"onestroke {__version__}")
        raise typer.Exit


@cli.command()
def serve(
    model: ModelsFlag = None,
    revision: RevisionFlag = None,
    vae: VaeFlag = None,
    unet: UnetFlag = None,
    controlnet: ControlFlag = None,
    recipe: RecipeFlag = None,
    adapter: AdapterFlag = None,
    device: DeviceFlag = None,
    dtype: DTypeFlag = None,
    threads: ThreadsFlag = None,
    compile: CompileFlag = None,
    graphs: GraphsFlag = None,
    fuse: FuseFlag = None,
    channels_last: ChannelsLastFlag = None,
    encode_kv: EncodeKvFlag = None,
    attention: AttentionFlag = None,
    decoder: DecoderFlag = None,
    quantize: QuantizeFlag = None,
    prompt_cache: PromptCacheFlag = None,
    cache_dir: CacheDirFlag = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0: any free one. [default: 8000]")
    ] = None,
    allowed_hosts: Annotated[
        str | None, typer.Option(help="Host names to answer to, comma-separated.")
    ] = None,
    allowed_origins: Annotated[
        str | None, typer.Option(help="Foreign origins whose pages may call, comma-separated.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="UNet rows in one pass, at most. [default: 8]")
    ] = None,
    pass_budget: Annotated[
        float | None, typer.Option(help="Longest pass in seconds; 0: chosen from what passes cost.")
    ] = None,
    bulk_share: Annotated[
        float | None,
        typer.Option(
            help="Share of a pass, and of the time where models or sizes differ, kept for apps while people type."
        ),
    ] = None,
    max_backlog: Annotated[
        int | None, typer.Option(help="Waiting REST pictures; beyond: 429. [default: 256]")
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(help="Longest expected wait in seconds; beyond: 429.")
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="An accepted request is answered within this.")
    ] = None,
    max_sessions: Annotated[
        int | None, typer.Option(help="Typing sessions at a time. [default: 256]")
    ] = None,
    max_prompt_chars: Annotated[
        int | None, typer.Option(help="Longest prompt accepted. [default: 4000]")
    ] = None,
    drain_notice: Annotated[
        float | None, typer.Option(help="When stopping, still take work for this long while unready.")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Longest wait for accepted work when stopping.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="As a Ray Serve application, a replica per GPU (extra `ray`).")
    ] = False,
) -> None:
    """Serve the page, the typing socket and the REST faces. Every flag is also an ONESTROKE_* variable.

    A key for all /v1 routes is taken from ONESTROKE_API_KEY only: flags are visible to other users.
    """
    flags = locals()
    del flags["on_ray"]
    settings = _settings(flags)
    if on_ray:
        try:
            from onestroke.ray import run
        except ModuleNotFoundError as error:
            fail(f"--ray needs Ray ({error}): pip install 'onestroke[ray]'")
    else:
        from onestroke.serving import run

    raise SystemExit(run(settings))


@cli.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; .jpg, .png or .webp says the format.")
    ] = Path("picture.png"),
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; random if not given.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the sampler; the model's own number if not given.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT; if not given the model's own, with a picture the nearest to its."),
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How closely the words are followed; the model's own if not given.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What not to draw; wants a guidance scale above 1.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to start from: a PNG, JPEG or WebP file.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How far to leave --image behind, above 0 to 1 (SDXL, SD). [default: 0.75]"),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="What of --image is painted anew: transparent, or else white (Muse models)."),
    ] = None,
    controlnet: Annotated[
        str | None,
        typer.Option(
            help="The ControlNet that --control is for: canny, depth or scribble, or NAME=SOURCE with a folder, "
            ".safetensors file or hub id."
        ),
    ] = None,
    control: Annotated[Path | None, typer.Option(help="A picture that --controlnet steers by.")] = None,
    control_scale: Annotated[float, typer.Option(help="How strongly it steers, 0 to 2.")] = 1.0,
    preprocess: Annotated[
        Literal["none", "canny"],
        typer.Option(help="canny: steer by the edges of --control. none: it is steered by as it is."),
    ] = "none",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA to draw with, as NAME=FILE, NAME=FOLDER or NAME=owner/name:file, with :SCALE behind it "
            "unless that is 1; repeatable."
        ),
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, max=64, help="Pictures; picture i has seed + i.")] = 1,
    model: ModelFlag = None,
    revision: RevisionFlag = None,
    vae: VaeFlag = None,
    unet: UnetFlag = None,
    recipe: RecipeFlag = None,
    device: DeviceFlag = None,
    dtype: DTypeFlag = None,
    threads: ThreadsFlag = None,
) -> None:
    """Draw without a server: load the model, draw, write the files.

    onestroke generate "a fox" -o fox.png --seed 7 -n 4

    onestroke generate "a fox" --model sdxl-base --image sketch.png --strength 0.6 --adapter ink=ink.safetensors:0.8

    onestroke generate "a house" --model sdxl-base --controlnet canny --control house.jpg --preprocess canny
    """
    from onestroke.api.pictures import Steering
    from onestroke.api.resolve import Ask
    from onestroke.generating import generate_files, read_picture

    settings = _settings(
        {
            "model": model,
            "revision": revision,
            "vae": vae,
            "unet": unet,
            "controlnet": controlnet,
            "recipe": recipe,
            "device": device,
            "dtype": dtype,
            "threads": threads,
        }
    )
    ask = Ask(
        prompt,
        seed=seed,
        steps=steps,
        size=size,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        strength=strength,
    )
    guide = read_picture(control, "control")
    steering = Steering(guide, None, control_scale, preprocess) if guide else None
    if controlnet and not steering:
        fail("--controlnet steers by a picture: give --control too")
    asyncio.run(
        generate_files(
            settings,
            ask,
            output,
            n=number,
            image=read_picture(image, "image"),
            mask=read_picture(mask, "mask"),
            steering=steering,
            adapters=adapter or (),
        )
    )


@cli.command()
def fetch(
    model: Annotated[str, typer.Argument(help="A catalog name or a hub id.")],
    revision: RevisionFlag = None,
    vae: VaeFlag = None,
    controlnet: ControlFlag = None,
) -> None:
    """Bring a model's weights into the hub's cache, only the files that serving it needs; then leave.

    HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE hold as for every client of the hub.
    """
    from onestroke.generating import fetch_files

    fetch_files(model, revision, vae or "auto", controlnet or ())


@cli.command()
def warm(
    model: ModelsFlag = None,
    revision: RevisionFlag = None,
    vae: VaeFlag = None,
    unet: UnetFlag = None,
    controlnet: ControlFlag = None,
    recipe: RecipeFlag = None,
    device: DeviceFlag = None,
    dtype: DTypeFlag = None,
    max_batch: Annotated[int | None, typer.Option(help="As `serve` will be given it.")] = None,
    compile: CompileFlag = None,
    graphs: GraphsFlag = None,
    fuse: FuseFlag = None,
    channels_last: ChannelsLastFlag = None,
    encode_kv: EncodeKvFlag = None,
    attention: AttentionFlag = None,
    decoder: DecoderFlag = None,
    quantize: QuantizeFlag = None,
    cache_dir: CacheDirFlag = None,
) -> None:
    """Compile ahead, for example while an image is built, what `serve` with the same flags will need; then leave.

    The artifacts suit the card, the torch and the settings that they were made with, and no other.
    """
    settings = _settings(locals())
    from onestroke.generating import warm as fill

    asyncio.run(fill(settings))


@cli.command()
def models(
    json: Annotated[
        bool, typer.Option("--json", help="As a JSON list, with what `/v1/models` says.")
    ] = False,
) -> None:
    """List the catalog: what each model is and is bad at, its licence, and whether its weights are here."""
    from onestroke.models.cards import card, described
    from onestroke.models.catalog import CATALOG, CONTROLS
    from onestroke.models.hub import is_cached

    if json:
        from json import dumps

        typer.echo(dumps([{**card(spec), "here": is_cached(spec)} for spec in CATALOG.values()], indent=2))
        return
    for spec in CATALOG.values():
        first, *others = described(spec, is_cached(spec))
        typer.secho(spec.name, bold=True, nl=False)
        typer.echo("\n    ".join((f"  {first}", *others)))
    typer.secho("ControlNets", bold=True, nl=False)
    typer.echo(" (`serve --controlnet NAME`)")
    for control in CONTROLS:
        typer.echo(
            f"    {control.name} for {control.family}: {control.weights.source}, "
            f"{control.weights.download_bytes / 1e9:.1f} GB; {control.licence.name}: {control.licence.terms}"
        )
    typer.echo(
        "or a hub id (owner/name), a diffusers folder, or a .safetensors file of SDXL, SD 2.1 or SD 1.5"
    )


@cli.command()
def doctor(
    port: Annotated[int, typer.Option(help="Port that the server is to use.")] = 8000,
) -> None:
    """Check this machine: Python, torch, device, weights, port; say what to do about what is missing."""
    from onestroke.doctor import examine

    problems = 0
    for finding in examine(port):
        problems += not finding.ok
        typer.secho("ok   " if finding.ok else "FAIL ", fg="green" if finding.ok else "red", nl=False)
        typer.echo(f"{finding.what}: {finding.found}")
        if finding.cure:
            typer.echo(f"     -> {finding.cure}")
    raise SystemExit(1 if problems else 0)


def _settings(flags: dict[str, Any]) -> Any:
    """Flags over environment over defaults; a wrong value names its flag."""
    from pydantic import ValidationError

    from onestroke.settings import Settings

    try:
        return Settings(**{name: value for name, value in flags.items() if value not in (None, [])})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        fail(f"--{name.replace('_', '-')} (or ONESTROKE_{name.upper()}): {problem['msg']}")
        raise

"""`onestroke generate`, `fetch` and `warm`: the same worker and scheduler as the server's, without the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from onestroke.api.pictures import Steering, with_pictures
from onestroke.api.resolve import Ask, resolve
from onestroke.app import serving, until_ready
from onestroke.core import AdapterUse, GenerationRequest, ImageFormat
from onestroke.errors import InvalidRequest
from onestroke.metrics import Metrics
from onestroke.models import hub
from onestroke.models.choosing import choose, choose_all, vae_of, with_controls
from onestroke.models.specs import FileSpec, VaeSpec
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Scheduler
from onestroke.settings import Settings

FORMATS = {
    ".jpg": ImageFormat.JPEG,
    ".jpeg": ImageFormat.JPEG,
    ".png": ImageFormat.PNG,
    ".webp": ImageFormat.WEBP,
}


async def generate_files(
    settings: Settings,
    ask: Ask,
    output: Path,
    *,
    n: int,
    image: bytes | None = None,
    mask: bytes | None = None,
    steering: Steering | None = None,
    adapters: Sequence[str] = (),
) -> None:
    """Draw and write `n` files, NAME.png or NAME-0.png and so on. Raises OnestrokeError.

    `adapters` are NAME=SOURCE or NAME=SOURCE:SCALE; those of the settings, which are the server's, are left out.
    """
    if output.suffix.lower() not in FORMATS:
        raise InvalidRequest(f"--output must end in one of {', '.join(FORMATS)}", "output")
    if not output.parent.is_dir():
        raise InvalidRequest(f"--output: there is no folder {output.parent}", "output")
    spec = choose_all(settings)[0].spec
    sources, uses = zip(*map(split_scale, adapters), strict=True) if adapters else ((), ())
    ask = replace(ask, format=FORMATS[output.suffix.lower()], adapters=uses)
    ask = await with_pictures(ask, [spec], image=image, mask=mask, steering=steering)
    requests = resolve(ask, [spec], settings.max_prompt_chars, n)
    rows = sum(request.unet_rows for request in requests)  # nothing larger is worth its warming up
    quick = {name: "off" for name in ("compile", "graphs") if getattr(settings, name) == "auto"}
    own = {"max_batch": min(settings.max_batch, rows), "adapter": sources}
    settings = settings.model_copy(update={**own, **quick})
    async with serving(settings, [spec], Metrics(), quiet=True) as scheduler:
        with _bars() as bars:
            await _warm_up(scheduler, bars, spec.name)
            await _draw(scheduler, bars, requests, output)


def read_picture(path: Path | None, flag: str) -> bytes | None:
    """The file's bytes. Raises InvalidRequest naming the `flag`."""
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise InvalidRequest(f"--{flag}: {path} cannot be read: {error.strerror}", flag) from error


def split_scale(adapter: str) -> tuple[str, AdapterUse]:
    """NAME=SOURCE of NAME=SOURCE:SCALE, and the use that is made of it."""
    source, _, scale = adapter.rpartition(":")
    try:
        return source, AdapterUse(source.partition("=")[0], float(scale))
    except ValueError:
        return adapter, AdapterUse(adapter.partition("=")[0])


async def warm(settings: Settings) -> None:
    """Start workers as `serve` would, to fill the folder of compiled artifacts; say what was done and leave.

    Raises ModelError.
    """
    specs, began, last = [spec for spec, _ in choose_all(settings)], time.monotonic(), ""
    async with serving(settings, specs, Metrics(), quiet=True) as scheduler:

        def show() -> None:
            nonlocal last
            if (stage := scheduler.progress().stage) != last:
                last = stage
                print(f"{time.monotonic() - began:7.1f} s  {stage}", flush=True)

        unwatch = scheduler.watch(show)
        await until_ready(scheduler)
        unwatch()
        for worker in scheduler.workers():
            for line in (f"{', '.join(spec.name for spec in specs)} on {worker.device}", *worker.notes):
                print(line)


def fetch_files(name: str, revision: str | None, vae: str, controls: Sequence[str] = ()) -> None:
    """Bring a model and what is named beside it, a VAE and ControlNets, into the hub's cache. Raises ModelError."""
    (choice,) = with_controls([choose(name, revision=revision, vae=vae)], controls)
    spec, extra = choice.spec, vae_of(choice.spec)
    licences = {each.weights: each.licence for each in choice.spec.controls}
    with _bars() as bars:
        task = bars.add_task(spec.name, total=1.0)

        def show(stage: str, fraction: float) -> None:
            bars.update(task, description=stage, completed=fraction)

        for each in (spec, *spec.extras, extra):
            if each is None or isinstance(each, Path) or (not isinstance(each, VaeSpec) and each.is_local):
                continue
            licence = licences.get(each, spec.licence) if isinstance(each, FileSpec) else each.licence
            place = hub.fetch(each, show)
            bars.console.print(f"{each.name} is in {place} ({licence.name})", highlight=False)


async def _warm_up(scheduler: Scheduler, bars: Progress, name: str) -> None:
    task = bars.add_task(f"loading {name}", total=1.0)

    def show() -> None:
        progress = scheduler.progress()
        bars.update(task, description=progress.stage, completed=progress.fraction)

    unwatch = scheduler.watch(show)
    await until_ready(scheduler)
    unwatch()


async def _draw(
    scheduler: Scheduler, bars: Progress, requests: list[GenerationRequest], output: Path
) -> None:
    task = bars.add_task("drawing", total=len(requests))
    tickets = [scheduler.submit(each, lane=Lane.BULK, tenant="cli", timeout=3600.0) for each in requests]
    for i, ticket in enumerate(tickets):
        picture = await ticket.picture
        path = output if len(requests) == 1 else output.with_stem(f"{output.stem}-{i}")
        await asyncio.to_thread(path.write_bytes, picture.data)
        bars.update(task, advance=1)
        bars.console.print(f"{path}  seed {picture.request.seed}", highlight=False)


def _bars() -> Progress:
    return Progress(TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn(), transient=True)

"""The verbs: prepare, encode, step and decode over rows that live on one device.

A row is one picture on its way. `prepare` may run on any thread; `encode`, `step`, `decode` and `warm_up` belong
to the one thread that owns the device. Latents and the sampler's arithmetic are fp32 whatever the network's
dtype.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from onestroke.core import MAX_SEED, AdapterUse, Control, DecoderName, GenerationRequest, SourceImage
from onestroke.errors import GenerationFailed, InvalidRequest, ModelError
from onestroke.levers import AUTO, Levers
from onestroke.models.specs import AdapterSpec, ModelSpec
from onestroke.pipelines.adapters import Adapters
from onestroke.pipelines.attention import kernel
from onestroke.pipelines.compiled import CompiledCache, no_more_compiling
from onestroke.pipelines.control import ControlNet
from onestroke.pipelines.decoder import Decoder, Decoding
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.encoder import PictureEncoder
from onestroke.pipelines.graphs import Recorder, recording
from onestroke.pipelines.images import Pixels, decode_image
from onestroke.pipelines.lora import lora_file, read_lora
from onestroke.pipelines.noise import Noise
from onestroke.pipelines.parts import located
from onestroke.pipelines.rows import Progress, Row, Source, Stepped, Timed
from onestroke.pipelines.samplers import Step, sampler_table
from onestroke.pipelines.text import Embedding, TextEncoder, Tokens
from onestroke.pipelines.transfer import Transfers
from onestroke.pipelines.tuning import described, tune
from onestroke.pipelines.unet import Denoiser, Residuals, UnetRow
from onestroke.pipelines.warmup import warm_up


class Pipeline:
    """One model on one device. Made by `loading.load`.

    `decoders` has a full and a tiny one, the same where the model has one; the request says which it wants.
    """

    def __init__(
        self,
        spec: ModelSpec,
        text: TextEncoder,
        denoiser: Denoiser,
        decoders: Mapping[DecoderName, Decoder],
        encoder: PictureEncoder,
        controls: Mapping[str, ControlNet],
        *,
        scheduler: str,
        zero_negative: bool,
        vae_scale: int,
        adapters: Adapters,
        levers: Levers = AUTO,
        recorder: Recorder | None = None,
    ) -> None:
        self.spec = spec
        self.text = text
        self.denoiser = denoiser
        self.decoders = decoders
        self.adapters = adapters
        self.encoder = encoder
        self.controls = controls
        self.device = denoiser.device
        self.dtype = denoiser.dtype
        self.threads = torch.get_num_threads()
        self._transfers = Transfers(self.device)
        self._ahead = 1 if self.device.type == "cuda" else 0
        self.levers = levers
        self.attention: str = levers.attention
        self.recorder = recorder
        self._cache: CompiledCache | None = None
        self._scheduler = scheduler
        self._zero_negative = zero_negative
        self._vae_scale = vae_scale

    @property
    def decoder(self) -> Decoder:
        """The one that draws at full quality."""
        return self.decoders["full"]

    @property
    def distinct_decoders(self) -> list[Decoder]:
        return list(dict.fromkeys(self.decoders.values()))

    def decoder_of(self, row: Row) -> Decoder:
        return self.decoders[row.request.decoder]

    @property
    def max_batch(self) -> int:
        """The most UNet rows that one step takes; a guided row is two."""
        return self.denoiser.buckets[-1]

    def prepare(self, row_id: int, request: GenerationRequest) -> Row:
        """Tokens, sampler table and start noise of a new row. Any thread.

        Raises InvalidRequest naming the field that this model cannot serve.
        """
        check_request(request, self.spec)
        self.adapters.check(request.adapters)
        if request.unet_rows > self.max_batch:
            raise InvalidRequest("guidance needs a batch of at least two rows", "guidance_scale")
        last = None if request.image is None else request.steps_taken
        table = sampler_table(self._scheduler, request.sampler, request.steps, request.timesteps, last)
        shape = (
            self.denoiser.channels,
            request.height // self._vae_scale,
            request.width // self._vae_scale,
        )
        noise = Noise(request.seed, shape)
        source = self._source(request.image, noise) if request.image else None
        return Row(
            id=row_id,
            request=request,
            tokens=self.text.tokenize(request.prompt),
            negative_tokens=self._negative_tokens(request),
            table=table,
            noise=noise,
            sent=self._transfers.up(noise.draw() * table.start),
            source=source,
            control_pixels=self._control_pixels(request.control),
        )

    def _control_pixels(self, control: Control | None) -> torch.Tensor | None:
        """None where they are not needed. Raises InvalidRequest naming the control's field."""
        if control is None:
            return None
        if (net := self.controls.get(control.name)) is None:
            raise InvalidRequest(f"there is no ControlNet {control.name!r} here", "control.name")
        return None if control.image.digest in net.cache else pixels_of(control.image, "control.image")

    def _source(self, image: SourceImage, noise: Noise) -> Source:
        """What latents are drawn with comes before the start's noise, as in diffusers."""
        drawn = self._transfers.up(noise.draw()) if self.encoder.draws else None
        known = image.digest in self.encoder.cache
        return Source(image, None if known else pixels_of(image), drawn)

    def _negative_tokens(self, request: GenerationRequest) -> Tokens | None:
        """None where the negative embedding is zero or not needed, as diffusers decides it."""
        if not request.guided or (request.negative_prompt is None and self._zero_negative):
            return None
        return self.text.tokenize(request.negative_prompt or "")

    def add_adapter(self, adapter: AdapterSpec) -> None:
        """Read a LoRA, so that requests can name it. Any thread. Raises ModelError."""
        path = lora_file(located(adapter.file))
        try:
            self.adapters.add(adapter.name, read_lora(path, self.adapters.unet_config))
        except ModelError as error:
            raise ModelError(f"the adapter {adapter.name} ({path}): {error.message}") from error

    def remove_adapter(self, name: str) -> None:
        self.adapters.remove(name)

    def use_adapters(self, adapters: Sequence[AdapterUse]) -> bool:
        """Merge these and no others, where that is not so already. Raises InvalidRequest for unknown ones."""
        with self.on_device():
            return self.adapters.use(adapters)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> None:
        """Give every row its embeddings, from the cache where its prompts are known."""
        wanted = [tokens for row in rows for tokens in (row.tokens, row.negative_tokens) if tokens]
        with self.on_device():
            self.adapters.use(rows[0].request.adapters if rows else ())
            found = self.text.encode(wanted, self.adapters.encoding)
            started = {row.id: self._start(row, row.source) for row in rows if row.source}
            hints = {row.id: self._hint(row, row.request.control) for row in rows if row.request.control}
        for row in rows:
            if row.id in started:
                row.latents, row.source = started[row.id], None
            row.hint, row.control_pixels = hints.get(row.id), None
            row.embedding = found[row.tokens.prompt]
            if row.negative_tokens:
                row.negative = found[row.negative_tokens.prompt]
            elif row.request.guided:
                row.negative = Embedding(*map(torch.zeros_like, row.embedding))

    def _start(self, row: Row, source: Source) -> torch.Tensor:
        """The latents that a row starts from: its picture's, and the noise that it has so far."""
        found = self.encoder(
            source.image.digest,
            lambda: pixels_of(source.image) if source.pixels is None else source.pixels,
        )
        drawn = None if source.noise is None else source.noise.wait()
        return row.table.picture * found.sample(drawn) + row.sent.wait()

    def _hint(self, row: Row, control: Control) -> torch.Tensor:
        """What its ControlNet makes of the row's control image."""
        pixels = row.control_pixels
        return self.controls[control.name].hint(
            control.image.digest,
            lambda: pixels_of(control.image, "control.image") if pixels is None else pixels,
        )

    def _steered(
        self, rows: Sequence[Row], unet_rows: Sequence[UnetRow], read: Sequence[int]
    ) -> dict[int, Residuals]:
        """What ControlNets add, by the UNet row's place. Each runs once, on its own rows, guided ones twice."""
        of: dict[str, list[tuple[int, Row]]] = {}
        for row, last in zip(rows, read, strict=True):
            if row.hint is not None and row.request.control:
                places = range(unet_rows[last].base, last + 1)
                of.setdefault(row.request.control.name, []).extend((place, row) for place in places)
        added: dict[int, Residuals] = {}
        for name, steered in of.items():
            found = self.controls[name](
                [unet_rows[place] for place, _ in steered],
                [row.hint for _, row in steered if row.hint is not None],
                [row.request.control.scale for _, row in steered if row.request.control],
            )
            added.update(zip((place for place, _ in steered), found, strict=True))
        return added

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Stepped:
        """Take every row one step further in one UNet forward.

        Rows may be at different steps of different samplers; they share the picture's size and adapters. A row
        whose latents are no longer finite gets a GenerationFailed as its `error`; the others are unharmed.
        Raises ValueError when the rows need more UNet rows than `max_batch`.
        """
        steps = [row.table.steps[row.step] for row in rows]
        with self.on_device():
            self.adapters.use(rows[0].request.adapters)
            unet_rows, read = _unet_rows(rows, steps)
            latents, previews, finite = self.denoiser(unet_rows, self._steered(rows, unet_rows, read))
            x = [latents[i] for i in read]
            # The device is busy: the host draws meanwhile.
            for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
                if step.c:
                    x[i] += step.c * self._transfers.up(row.noise.draw()).wait()
            good = finite.tolist()
        result = Stepped([], [])
        for row, latent, i in zip(rows, x, read, strict=True):
            row.latents = latent
            row.step += 1
            row.held = previews[i] if not row.finished and row.table.steps[row.step].m else None
            if not good[i]:
                row.error = GenerationFailed(f"the picture is not finite after step {row.step}")
                result.failed.append(row)
            elif row.finished:
                result.finished.append(row)
        return result

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Pixels]]]:
        """Pictures, (height, width, 3) uint8, in sub-batches of one decoder, each once it is ready.

        A row whose picture is not finite gets a GenerationFailed as its `error` and no picture.
        """
        running: deque[tuple[list[Row], Decoding]] = deque()
        waiting = deque(self._sub_batches(rows))
        while waiting or running:
            with self.on_device():
                if waiting:
                    decoder, batch = waiting.popleft()
                    running.append((batch, decoder.start([row.sent.wait() for row in batch])))
                drawn = _drawn(*running.popleft()) if len(running) > self._ahead or not waiting else None
            if drawn:
                yield drawn

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """What every verb runs in: its errors told apart, attention by the chosen kernel."""
        with device_errors(self.device), kernel(self.attention):
            yield

    def _sub_batches(self, rows: Sequence[Row]) -> Iterator[tuple[Decoder, list[Row]]]:
        """Rows of one decoder together, its `batch` at a time and what is left by halves."""
        for decoder in dict.fromkeys(self.decoder_of(row) for row in rows):
            waiting = [row for row in rows if self.decoder_of(row) is decoder]
            while waiting:
                n = decoder.batch
                while n > len(waiting):
                    n //= 2
                yield decoder, waiting[:n]
                waiting = waiting[n:]

    def warm_up(self, progress: Progress = lambda stage, fraction: None) -> list[Timed]:
        """Choose, compile and record what the levers ask for, run every verb in every bucket through the real
        path, and say what each took.

        Nothing is compiled or recorded afterwards: other shapes run eagerly, and no request waits.
        """
        with device_errors(self.device):
            self._cache = tune(self, progress)
            with recording(self.recorder):
                samples = warm_up(self, progress)
        if self._cache is not None:
            no_more_compiling()
            self._cache.seal({"attention": self.attention})
        return samples

    @property
    def first_run(self) -> str:
        """What the first run in a bucket does, for the progress."""
        if self._cache is not None:
            return "loading compiled" if self._cache.hit else "compiling"
        return "recording" if self.recorder else "warming up"

    def notes(self) -> list[str]:
        """Which levers are on, and where the compiled artifacts are."""
        return [described(self), *([self._cache.described()] if self._cache else [])]


def pixels_of(image: SourceImage, field: str = "image") -> torch.Tensor:
    return torch.from_numpy(decode_image(image.data, field))


def _unet_rows(rows: Sequence[Row], steps: Sequence[Step]) -> tuple[list[UnetRow], list[int]]:
    """The forward's rows, and which of them each of `rows` reads: its only one, or that with its text."""
    made: list[UnetRow] = []
    read: list[int] = []
    for row, step in zip(rows, steps, strict=True):
        assert row.embedding is not None, f"row {row.id} is stepped before it is encoded"
        request, latents, base = row.request, row.sent.wait(), len(made)
        size = (request.height, request.width)
        time_ids = (*size, *request.crop, *size)
        if row.negative is not None:
            made.append(UnetRow(latents, step, row.negative, time_ids, base, 0.0, held=row.held))
        guidance = request.guidance_scale if row.negative is not None else 0.0
        read.append(len(made))
        w = request.guidance_scale - 1 if request.embeds_guidance else -1.0
        made.append(UnetRow(latents, step, row.embedding, time_ids, base, guidance, w, row.held))
    return made, read


def _drawn(batch: list[Row], decoding: Decoding) -> tuple[list[Row], list[Pixels]]:
    """The finite pictures; the other rows are given their error."""
    pixels, finite = decoding.wait()
    for row, good in zip(batch, finite, strict=True):
        if not good:
            row.error = GenerationFailed("its picture is not finite")
    drawn = [i for i, good in enumerate(finite) if good]
    return [batch[i] for i in drawn], [pixels[i] for i in drawn]


def check_request(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raise InvalidRequest, naming the field, for a request that a model of `spec` cannot draw."""
    sizes = ", ".join(f"{width}x{height}" for width, height in spec.sizes)
    if (request.width, request.height) not in spec.sizes:
        field = "width" if request.width not in {width for width, _ in spec.sizes} else "height"
        raise InvalidRequest(f"{request.width}x{request.height} is not a size of {spec.name}: {sizes}", field)
    spec.check_steps(request.steps)
    if request.steps_taken < 1:
        raise InvalidRequest(
            f"strength {request.strength} of {request.steps} steps leaves none to take: raise either",
            "strength",
        )
    if not 0 <= request.seed < MAX_SEED:
        raise InvalidRequest(f"seed must be 0 to {MAX_SEED - 1}, not {request.seed}", "seed")
    if not 0 <= request.guidance_scale < float("inf"):
        raise InvalidRequest(
            f"guidance_scale must be 0 or more, not {request.guidance_scale}", "guidance_scale"
        )
    if not 1 <= request.quality <= 100:
        raise InvalidRequest(f"quality must be 1 to 100, not {request.quality}", "quality")

"""The verbs: prepare, encode, step and decode over rows that live on one device.

A row is one picture on its way. `prepare` may run on any thread; `encode`, `step`, `decode` and `warm_up` belong
to the one thread that owns the device. Latents and the sampler's arithmetic are fp32 whatever the network's
dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from onestroke.core import MAX_SEED, GenerationRequest
from onestroke.errors import GenerationFailed, InvalidRequest
from onestroke.models.catalog import ModelSpec
from onestroke.pipelines.decoder import Decoder
from onestroke.pipelines.images import Pixels
from onestroke.pipelines.noise import Noise
from onestroke.pipelines.rows import Progress, Row, Stepped, Timed
from onestroke.pipelines.samplers import Step, sampler_table
from onestroke.pipelines.text import Embedding, TextEncoder, Tokens
from onestroke.pipelines.unet import Denoiser
from onestroke.pipelines.warmup import warm_up


class Pipeline:
    """One model on one device. Made by `loading.load`."""

    def __init__(
        self,
        spec: ModelSpec,
        text: TextEncoder,
        denoiser: Denoiser,
        decoder: Decoder,
        *,
        scheduler: str,
        zero_negative: bool,
        vae_scale: int,
    ) -> None:
        self.spec = spec
        self.text = text
        self.denoiser = denoiser
        self.decoder = decoder
        self.device = denoiser.device
        self.dtype = denoiser.dtype
        self.threads = torch.get_num_threads()
        self.decode_batch = 1
        self._scheduler = scheduler
        self._zero_negative = zero_negative
        self._vae_scale = vae_scale

    @property
    def max_batch(self) -> int:
        """The most UNet rows that one step takes; a guided row is two."""
        return self.denoiser.buckets[-1]

    def prepare(self, row_id: int, request: GenerationRequest) -> Row:
        """Tokens, sampler table and start noise of a new row. Any thread.

        Raises InvalidRequest naming the field that this model cannot serve.
        """
        check_request(request, self.spec)
        if request.unet_rows > self.max_batch:
            raise InvalidRequest("guidance needs a batch of at least two rows", "guidance_scale")
        table = sampler_table(self._scheduler, request.sampler, request.steps, request.timesteps)
        shape = (
            self.denoiser.channels,
            request.height // self._vae_scale,
            request.width // self._vae_scale,
        )
        noise = Noise(request.seed, shape)
        return Row(
            id=row_id,
            request=request,
            tokens=self.text.tokenize(request.prompt),
            negative_tokens=self._negative_tokens(request),
            table=table,
            noise=noise,
            latents=(noise.draw() * table.start).to(self.device, non_blocking=True),
            time_ids=self._time_ids(request),
        )

    def _time_ids(self, request: GenerationRequest) -> torch.Tensor:
        size = (request.height, request.width)
        return torch.tensor([*size, *request.crop, *size], dtype=self.dtype).to(
            self.device, non_blocking=True
        )

    def _negative_tokens(self, request: GenerationRequest) -> Tokens | None:
        """None where the negative embedding is zero or not needed, as diffusers decides it."""
        if not request.guided or (request.negative_prompt is None and self._zero_negative):
            return None
        return self.text.tokenize(request.negative_prompt or "")

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> None:
        """Give every row its embeddings, from the cache where its prompts are known."""
        wanted = [tokens for row in rows for tokens in (row.tokens, row.negative_tokens) if tokens]
        found = self.text.encode(wanted)
        for row in rows:
            row.embedding = found[row.tokens.prompt]
            if row.negative_tokens:
                row.negative = found[row.negative_tokens.prompt]
            elif row.request.guided:
                row.negative = Embedding(*map(torch.zeros_like, row.embedding))

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Stepped:
        """Take every row one step further in one UNet forward.

        Rows may be at different steps of different samplers; they share the picture's size. A row whose
        latents are no longer finite gets a GenerationFailed as its `error`; the others are unharmed.
        Raises ValueError when the rows need more UNet rows than `max_batch`.
        """
        steps = [row.table.steps[row.step] for row in rows]
        x = torch.stack([row.latents for row in rows])
        e = self._predict(rows, steps, x * self._column([step.d for step in steps]))
        x = x * self._column([step.a for step in steps]) + e * self._column([step.b for step in steps])
        for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
            if step.c:
                x[i] += step.c * row.noise.draw().to(self.device)
        finite = torch.isfinite(x).flatten(1).all(1).tolist()
        result = Stepped([], [])
        for row, latents, good in zip(rows, x, finite, strict=True):
            row.latents = latents
            row.step += 1
            if not good:
                row.error = GenerationFailed(f"the picture is not finite after step {row.step}")
                result.failed.append(row)
            elif row.finished:
                result.finished.append(row)
        return result

    def _predict(self, rows: Sequence[Row], steps: Sequence[Step], scaled: torch.Tensor) -> torch.Tensor:
        """The guided network output (n, channels, h, w): e = u + s*(t - u); an unguided row has u = t."""
        source: list[int] = []
        embeddings: list[Embedding] = []
        without: list[int] = []
        with_text: list[int] = []
        for i, row in enumerate(rows):
            assert row.embedding is not None, f"row {row.id} is stepped before it is encoded"
            without.append(len(source))
            if row.negative is not None:
                source.append(i)
                embeddings.append(row.negative)
            with_text.append(len(source))
            source.append(i)
            embeddings.append(row.embedding)
        time_ids = torch.stack([rows[i].time_ids for i in source])
        output = self.denoiser(scaled[source], [steps[i].t for i in source], embeddings, time_ids)
        guidance = self._column([row.request.guidance_scale if row.negative else 0.0 for row in rows])
        base = output[without]
        return base + guidance * (output[with_text] - base)

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Pixels]]]:
        """Pictures, (height, width, 3) uint8, in sub-batches of `decode_batch` or fewer, each once it is ready.

        A row whose picture is not finite gets a GenerationFailed as its `error` and no picture.
        """
        waiting = list(rows)
        while waiting:
            n = self.decode_batch
            while n > len(waiting):
                n //= 2
            batch, waiting = waiting[:n], waiting[n:]
            pixels, finite = self.decoder(torch.stack([row.latents for row in batch]))
            for row, good in zip(batch, finite, strict=True):
                if not good:
                    row.error = GenerationFailed("its picture is not finite")
            drawn = [i for i, good in enumerate(finite) if good]
            yield [batch[i] for i in drawn], [pixels[i] for i in drawn]

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).to(self.device)

    def warm_up(self, progress: Progress = lambda stage, fraction: None) -> list[Timed]:
        """Run every verb in every bucket through the real path, and say what each took."""
        return warm_up(self, progress)


def check_request(request: GenerationRequest, spec: ModelSpec) -> None:
    """Raise InvalidRequest, naming the field, for a request that a model of `spec` cannot draw."""
    sizes = ", ".join(f"{width}x{height}" for width, height in spec.sizes)
    if (request.width, request.height) not in spec.sizes:
        field = "width" if request.width not in {width for width, _ in spec.sizes} else "height"
        raise InvalidRequest(f"{request.width}x{request.height} is not a size of {spec.name}: {sizes}", field)
    if not 1 <= request.steps <= spec.max_steps:
        raise InvalidRequest(f"steps must be 1 to {spec.max_steps}, not {request.steps}", "steps")
    if not 0 <= request.seed < MAX_SEED:
        raise InvalidRequest(f"seed must be 0 to {MAX_SEED - 1}, not {request.seed}", "seed")
    if not 0 <= request.guidance_scale < float("inf"):
        raise InvalidRequest(
            f"guidance_scale must be 0 or more, not {request.guidance_scale}", "guidance_scale"
        )
    if not 1 <= request.quality <= 100:
        raise InvalidRequest(f"quality must be 1 to 100, not {request.quality}", "quality")

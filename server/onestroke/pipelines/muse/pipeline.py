"""Muse's verbs: prepare, encode, step and decode over rows of image tokens.

The same seam as `pipelines.pipeline`: `prepare` may run on any thread, the others on the one that owns the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from onestroke.core import GenerationRequest
from onestroke.errors import GenerationFailed, InvalidRequest, OnestrokeError
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.images import Pixels, decode_image
from onestroke.pipelines.muse.codec import TokenCodec
from onestroke.pipelines.muse.editing import Mask, edit, inpaint, outpaint
from onestroke.pipelines.muse.sampling import (
    Draws,
    Rule,
    Second,
    Step,
    first_stage,
    remask,
    steps_of,
    unmask,
)
from onestroke.pipelines.muse.transformer import MaskedTransformer
from onestroke.pipelines.muse.warmup import warm_up
from onestroke.pipelines.pipeline import check_request
from onestroke.pipelines.rows import Progress, Timed
from onestroke.pipelines.text import Embedding, TextEncoder, Tokens

AESTHETIC_SCORE = 6
"""The one that AmusedPipeline asks for."""


@dataclass(slots=True, eq=False)
class MuseRow:
    """One picture on its way; `tokens` (h, w) are int64 on the device.

    `share` says how much of it was masked at the start. `image` is what it starts from, where that is no blank, and
    `mask` what of it is painted anew. A picture of the large size is drawn small first: `second` is what comes
    then, and `small` the finished small tokens once it has come.
    """

    id: int
    request: GenerationRequest
    text: Tokens
    negative_text: Tokens | None
    steps: tuple[Step, ...]
    draws: Draws
    tokens: torch.Tensor
    share: float = 1.0
    second: Second | None = None
    small: torch.Tensor | None = None
    step: int = 0
    embedding: Embedding | None = None
    negative: Embedding | None = None
    image: Pixels | None = None
    mask: Mask | None = None
    error: OnestrokeError | None = None
    revised_prompt: None = None

    @property
    def truncated(self) -> bool:
        """Whether the prompt was longer than the text encoder reads."""
        return self.text.truncated

    @property
    def finished(self) -> bool:
        return self.step >= len(self.steps)

    @property
    def conditions(self) -> tuple[int, ...]:
        """Micro-conditioning; width goes before height here, as in the model's training."""
        width, height = self.request.width, self.request.height
        if self.second and self.small is None:
            large, small = self.second.tokens.shape, self.tokens.shape
            width, height = width * small[1] // large[1], height * small[0] // large[0]
        return (width, height, *self.request.crop, AESTHETIC_SCORE)

    def advance(self, tokens: torch.Tensor) -> None:
        """Take what a step made; after the last of the first stage, go over to the second."""
        self.tokens = tokens
        self.step += 1
        if self.second and self.step == self.second.begins:
            self.small = tokens
            _, self.tokens, self.share = self.second


class Stepped(NamedTuple):
    """What a step did: rows that are ready to decode, and rows that failed (each with its `error` set)."""

    finished: list[MuseRow]
    failed: list[MuseRow]


@contextmanager
def undrawn_on_error(rows: Sequence[MuseRow]) -> Iterator[None]:
    """A step that fails leaves its rows' draws as they were, so that it can be tried again with fewer rows."""
    states = [row.draws.state for row in rows]
    try:
        yield
    except Exception:
        for row, state in zip(rows, states, strict=True):
            row.draws.state = state
        raise


class MusePipeline:
    """One aMUSEd model on one device. Made by `muse.loading.load`."""

    def __init__(
        self,
        spec: ModelSpec,
        text: TextEncoder,
        transformer: MaskedTransformer,
        codec: TokenCodec,
        rule: Rule,
        enlarger: MaskedTransformer | None = None,
    ) -> None:
        self.spec = spec
        self.text = text
        self.transformer = transformer
        self.codec = codec
        self.rule = rule
        self.enlarger = enlarger
        self.device = transformer.device
        self.dtype = transformer.dtype
        self.threads = torch.get_num_threads()
        self.decode_batch = 1

    @property
    def max_batch(self) -> int:
        """The most transformer rows that one step takes; a guided row is two."""
        return self.transformer.buckets[-1]

    def prepare(self, row_id: int, request: GenerationRequest) -> MuseRow:
        """A new row, all of it masked. Any thread.

        Raises InvalidRequest naming the field that this model cannot serve.
        """
        check_request(request, self.spec)
        if request.sampler not in self.spec.samplers:
            raise InvalidRequest(
                f"{self.spec.name} has no sampler {request.sampler!r}: give {', '.join(self.spec.samplers)}",
                "sampler",
            )
        if request.timesteps is not None:
            raise InvalidRequest(f"{self.spec.name} has steps and no timesteps", "timesteps")
        if request.unet_rows > self.max_batch:
            raise InvalidRequest("guidance needs a batch of at least two rows", "guidance_scale")
        if any(margin % self.codec.scale for margin in request.expand or ()):
            raise InvalidRequest(
                f"expand: {self.spec.name} paints in squares of {self.codec.scale} pixels: give multiples of it",
                "expand",
            )
        small, large = self.grids(request)
        begins = first_stage(request.steps) if large else request.steps
        if begins < 1:
            raise InvalidRequest(
                f"{request.width}x{request.height} is drawn small first: give at least 2 steps", "steps"
            )
        return MuseRow(
            id=row_id,
            request=request,
            text=self.text.tokenize(request.prompt),
            negative_text=self.text.tokenize(request.negative_prompt or "") if request.guided else None,
            steps=(*steps_of(self.rule, begins), *steps_of(self.rule, request.steps - begins)),
            draws=Draws(request.seed),
            tokens=self.masks(small),
            second=Second(begins, self.masks(large)) if large else None,
            image=decode_image(request.image.data) if request.image else None,
            mask=decode_image(request.mask.data, "mask")[..., 0] >= 128 if request.mask else None,
        )

    def grids(self, request: GenerationRequest) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """The tokens (h, w) that a picture is drawn in first, and those that super-resolution draws it in then."""
        height, width = request.height // self.codec.scale, request.width // self.codec.scale
        if self.enlarger is None:
            return (height, width), None
        small, large = self.enlarger.network.config.small_size, self.enlarger.network.sample_size
        return (
            ((small, small), (large, large)) if (height, width) == (large, large) else ((height, width), None)
        )

    def masks(self, grid: tuple[int, int]) -> torch.Tensor:
        """Tokens (h, w) of which none is known."""
        return torch.full(grid, self.rule.mask, device=self.device)

    @torch.inference_mode()
    def encode(self, rows: Sequence[MuseRow]) -> None:
        """Give every row its embeddings, from the cache where its prompts are known."""
        wanted = [text for row in rows for text in (row.text, row.negative_text) if text]
        with device_errors(self.device):
            found = self.text.encode(wanted)
        for row in rows:
            if row.image is not None and row.mask is not None:
                inpaint(self, row, row.image, row.mask)
            elif row.image is not None and row.request.expand:
                outpaint(self, row, row.image, row.request.expand.left, row.request.expand.top)
            elif row.image is not None:
                edit(self, row, row.image)
            row.embedding = found[row.text.prompt]
            row.negative = found[row.negative_text.prompt] if row.negative_text else None

    @torch.inference_mode()
    def step(self, rows: Sequence[MuseRow]) -> Stepped:
        """Take every row one step further, in one forward for each of the stages that they are at.

        Rows may be at different steps of different step counts; they share the picture's size. A row whose logits
        are not finite gets a GenerationFailed as its `error`; the others are unharmed. Raises ValueError when the
        rows need more transformer rows than `max_batch`.
        """
        made: list[tuple[MuseRow, torch.Tensor, bool]] = []
        with device_errors(self.device), undrawn_on_error(rows):
            for later in (False, True):
                if alike := [row for row in rows if (row.small is not None) is later]:
                    made += self._step(alike)
        result = Stepped([], [])
        for row, tokens, fine in made:
            row.advance(tokens)
            if not fine:
                row.error = GenerationFailed(f"the picture is not finite after step {row.step}")
                result.failed.append(row)
            elif row.finished:
                result.finished.append(row)
        return result

    def _step(self, rows: Sequence[MuseRow]) -> Iterator[tuple[MuseRow, torch.Tensor, bool]]:
        """Rows of one stage, their tokens after the step, and whether their logits were finite."""
        steps, draws = [row.steps[row.step] for row in rows], [row.draws for row in rows]
        shown = remask([row.tokens for row in rows], steps, draws, self.rule.mask)
        logits = self._predict(rows, shown, steps)
        finite = torch.isfinite(logits.sum((1, 2, 3)))
        shares = [row.share for row in rows]
        tokens = unmask(logits, torch.stack(shown), steps, shares, draws, self.rule.mask)
        return zip(rows, tokens, finite.tolist(), strict=True)

    def _predict(
        self, rows: Sequence[MuseRow], shown: Sequence[torch.Tensor], steps: Sequence[Step]
    ) -> torch.Tensor:
        """The guided logits for the tokens `shown`: u + s*(t - u); a row without guidance has u = t."""
        source: list[int] = []
        embeddings: list[Embedding] = []
        without: list[int] = []
        with_text: list[int] = []
        scales: list[float] = []
        for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
            assert row.embedding is not None, f"row {row.id} is stepped before it is encoded"
            without.append(len(source))
            if row.negative is not None:
                source.append(i)
                embeddings.append(row.negative)
            with_text.append(len(source))
            source.append(i)
            embeddings.append(row.embedding)
            scales.append(1 + step.guidance * (row.request.guidance_scale - 1))
        told = [row.small for i in source if (row := rows[i]).small is not None]
        network = self.enlarger if self.enlarger and told else self.transformer
        logits = network(
            [shown[i] for i in source], embeddings, [rows[i].conditions for i in source], told or None
        )
        base = logits[without]
        guidance = torch.tensor(scales).view(-1, 1, 1, 1).to(self.device)
        return base + guidance * (logits[with_text] - base)

    @torch.inference_mode()
    def decode(self, rows: Sequence[MuseRow]) -> Iterator[tuple[list[MuseRow], list[Pixels]]]:
        """Pictures, (height, width, 3) uint8, in sub-batches of `decode_batch` or fewer, each once it is ready.

        A row whose picture is not finite gets a GenerationFailed as its `error` and no picture.
        """
        waiting = list(rows)
        while waiting:
            n = self.decode_batch
            while n > len(waiting):
                n //= 2
            batch, waiting = waiting[:n], waiting[n:]
            with device_errors(self.device):
                pixels, finite = self.codec.decode(torch.stack([row.tokens for row in batch]))
            for row, good in zip(batch, finite, strict=True):
                if not good:
                    row.error = GenerationFailed("its picture is not finite")
            drawn = [i for i, good in enumerate(finite) if good]
            yield [batch[i] for i in drawn], [pixels[i] for i in drawn]

    def warm_up(self, progress: Progress = lambda stage, fraction: None) -> list[Timed]:
        """Run every verb in every bucket through the real path, and say what each took."""
        with device_errors(self.device):
            return warm_up(self, progress)

    def notes(self) -> list[str]:
        """What it runs in, for the log."""
        return [f"{str(self.dtype).removeprefix('torch.')}, eager"]

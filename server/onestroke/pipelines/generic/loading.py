"""From a catalog row of the family "diffusers" to a pipeline on a device, by its libraries' own loaders."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers import ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from onestroke.errors import ModelError
from onestroke.levers import Levers, check_plain
from onestroke.models.folders import INDEX, names_in, parts_of, read_json
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.generic.calls import Call, pipeline_class
from onestroke.pipelines.generic.pipeline import WholePipeline
from onestroke.pipelines.loading import power_buckets
from onestroke.pipelines.memory import check_memory, moving
from onestroke.pipelines.parts import explained, located, parameters_of, read_part
from onestroke.pipelines.rows import Progress

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
NETWORKS = (ModelMixin, PreTrainedModel)
OTHERS = (SchedulerMixin, PreTrainedTokenizerBase, ImageProcessingMixin)


def load(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    max_batch: int,
    levers: Levers,
    progress: Progress,
) -> WholePipeline:
    """Load `spec` for `device` in `dtype`; `max_batch` is the most rows in one call.

    Raises ModelError when the model cannot be loaded, and says why; also for a lever that it does not have.
    """
    check_plain(levers, spec.name)
    source = located(spec, progress)
    with explained(spec.name, spec.source):
        index = read_json(source / INDEX)
        kind = pipeline_class(str(index.get("_class_name")))
        call = Call(spec, kind)
        check_memory(spec.name, parameters_of(spec, source), dtype)
        parts = _read(spec, source, index, dtype, progress)
        options = {name: index[name] for name in inspect.signature(kind.__init__).parameters if name in index}
        pipeline = kind(**{**options, **parts})
    networks = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    with moving(spec.name, networks, device, progress):
        pipeline.to(device)
    return WholePipeline(call, pipeline, device, dtype, power_buckets(max_batch))


def _read(
    spec: ModelSpec, folder: Path, index: dict[str, Any], dtype: torch.dtype, progress: Progress
) -> dict[str, Any]:
    """Every part that the index names; None where it names none."""
    names, named = names_in(folder), parts_of(index)
    parts: dict[str, Any] = {}
    for done, (part, (library, name)) in enumerate(named.items()):
        progress(f"loading {spec.name}: {part}", done / len(named))
        if name is None:
            parts[part] = None
            continue
        kind: Any = getattr(LIBRARIES[library], name, None)
        if not isinstance(kind, type):
            raise ModelError(f"its {part} is a {name}, which this {library} does not have")
        if issubclass(kind, NETWORKS):
            parts[part] = read_part(kind, folder, part, names, spec.variant, dtype).eval()
        elif issubclass(kind, OTHERS):
            parts[part] = cast(Any, kind).from_pretrained(folder, subfolder=part, local_files_only=True)
        else:
            raise ModelError(f"its {part} is a {name}, which is no part that is read")
    return parts

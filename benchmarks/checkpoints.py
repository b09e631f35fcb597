"""Checkpoints of random weights in the exact published layouts, so that loading and speed can be had without them.

    python -m benchmarks.checkpoints --model sdxl-turbo --out DIR --format folder|file

A picture drawn from them is noise; shapes, names, dtypes, sizes on disk and the time of every pass are those of the
real thing. Weights are drawn tensor by tensor from one seed, on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from onestroke.models.catalog import CATALOG, CONFIGS
from onestroke.models.folders import INDEX, SCHEDULER, read_json
from onestroke.pipelines.clip_tokenizer import clip_tokenizer

State = dict[str, torch.Tensor]


class Model(NamedTuple):
    """A published model: its layout's folder under `configs`, the side of its latents, its scheduler's class."""

    layout: str
    sample_size: int
    scheduler: str


MODELS = {
    "sdxl-turbo": Model("sdxl", 64, "EulerAncestralDiscreteScheduler"),
    "sdxl-base": Model("sdxl", 128, "EulerDiscreteScheduler"),
    "sd-turbo": Model("sd21", 64, "EulerAncestralDiscreteScheduler"),
    "sd15": Model("sd15", 64, "PNDMScheduler"),
}
PADS = {"text_encoder": {"sd21": "!"}, "text_encoder_2": {"sdxl": "!"}}


def parts_of(layout: str) -> dict[str, Any]:
    """Every part of a layout on the meta device: shapes and names without memory."""
    folder = CONFIGS / layout
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    with torch.device("meta"):
        parts: dict[str, Any] = {
            name: kind.from_config(read_json(folder / name / "config.json")) for name, kind in kinds.items()
        }
        for name in ("text_encoder", "text_encoder_2"):
            if (folder / name).is_dir():
                config = CLIPTextConfig.from_pretrained(folder / name)
                kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
                parts[name] = kind(config)
    return parts


def states_of(parts: dict[str, Any]) -> dict[str, State]:
    """The parts' tensors by their published names (transformers leaves out `text_model.` since 5.6)."""
    return {
        name: {
            f"text_model.{key}"
            if name == "text_encoder" and not key.startswith("text_model.")
            else key: value
            for key, value in part.state_dict().items()
            if not key.endswith("position_ids")
        }
        for name, part in parts.items()
    }


def fill(state: State, dtype: torch.dtype, generator: torch.Generator) -> State:
    """Random weights of the same names and shapes: ones for norms, zeros for biases, else torch's own bounds."""
    filled = {}
    for name, tensor in state.items():
        shape, device = tensor.shape, generator.device
        if tensor.dim() < 2:
            value = torch.full(shape, float(name.endswith("weight")), device=device)
        else:
            bound = math.prod(shape[1:]) ** -0.5
            value = torch.empty(shape, device=device).uniform_(-bound, bound, generator=generator)
        filled[name] = value.to(dtype)
    return filled


# -- the original layouts ---------------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_INNER = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.attentions.0.to_": "mid.attn_1.",
    ".resnets.": ".block.",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
OPEN_CLIP = {
    "text_model.encoder.layers.": "transformer.resblocks.",
    "self_attn.": "attn.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "text_model.final_layer_norm": "ln_final",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_projection.weight": "text_projection",
}


def original(layout: str, states: dict[str, State]) -> State:
    """One state dict in the original layout. Tensors are shared where their shape stays."""
    made = {f"model.diffusion_model.{name}": tensor for name, tensor in _unet(states["unet"]).items()}
    made |= {f"first_stage_model.{name}": tensor for name, tensor in _vae(states["vae"]).items()}
    first = states["text_encoder"]
    if layout == "sd21":
        return made | _prefixed("cond_stage_model.model.", _open_clip(_with_unread_layer(first)))
    if layout == "sd15":
        return made | _prefixed("cond_stage_model.transformer.", _clip(first))
    made |= _prefixed("conditioner.embedders.0.transformer.", _clip(first))
    return made | _prefixed("conditioner.embedders.1.model.", _open_clip(states["text_encoder_2"]))


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _renamed(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def _unet(state: State) -> State:
    """Blocks of `layers + 1` become one running number, down and up alike."""
    step = 1 + len({name.split(".")[3] for name in state if name.startswith("down_blocks.0.resnets.")})
    attending = {name.split(".")[1] for name in state if re.match(r"up_blocks\.\d+\.attentions\.", name)}
    made = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "mid_block":
            number = 1 if parts[1] == "attentions" else 2 * int(parts[2])
            new = f"middle_block.{number}." + ".".join(parts[3:])
        elif parts[0] in ("down_blocks", "up_blocks"):
            down, block, kind, layer = parts[0] == "down_blocks", int(parts[1]), parts[2], int(parts[3])
            rest = ".".join(parts[4:])
            number = block * step + (layer if kind in ("resnets", "attentions") else step - 1) + down
            place = {
                "resnets": "0",
                "attentions": "1",
                "downsamplers": "0",
                "upsamplers": "2" if parts[1] in attending else "1",
            }[kind]
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            new = f"{'input' if down else 'output'}_blocks.{number}.{place}.{rest}"
        else:
            new = _renamed(name, UNET_TOP)
        if ".resnets." in name:
            head, _, tail = new.rpartition(".")
            new = f"{_renamed(head, RESNET)}.{tail}"
        made[new] = tensor
    return made


def _vae(state: State) -> State:
    """Decoder blocks count from the other end, and attention's linear layers are 1x1 convolutions."""
    last = max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks."))
    made = {}
    for name, tensor in state.items():
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name)
        new = _renamed(new.replace("down_blocks.", "down."), VAE_INNER)
        made[new] = tensor[:, :, None, None] if "attn_1" in new and tensor.dim() == 2 else tensor
    return made


def _clip(state: State) -> State:
    length = len(state["text_model.embeddings.position_embedding.weight"])
    return {**state, "text_model.embeddings.position_ids": torch.arange(length)[None]}


def _with_unread_layer(state: State) -> State:
    """SD 2.1's files hold all 24 layers of OpenCLIP and its projection; 23 are read, and diffusers keeps those."""
    layers = re.compile(r"(text_model\.encoder\.layers\.)(\d+)(\..*)")
    last = max(int(match[2]) for name in state if (match := layers.fullmatch(name)))
    unread = {
        f"{match[1]}{last + 1}{match[3]}": tensor.clone()
        for name, tensor in state.items()
        if (match := layers.fullmatch(name)) and int(match[2]) == last
    }
    width = len(state["text_model.final_layer_norm.weight"])
    token = state["text_model.embeddings.token_embedding.weight"]
    return {**state, **unread, "text_projection.weight": token[:width].clone()}


def _open_clip(state: State) -> State:
    """Queries, keys and values are one matrix; the projection stands the other way round."""
    made: State = {}
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        new = _renamed(name, OPEN_CLIP)
        if ".q_proj." in name:
            three = [state[name.replace(".q_proj.", f".{which}_proj.")] for which in "qkv"]
            made[new.replace("attn.q_proj.", "attn.in_proj_")] = torch.cat(three)
        else:
            made[new] = tensor.T if new == "text_projection" else tensor
    weight = made["ln_final.weight"]
    return {**made, "logit_scale": torch.ones((), dtype=weight.dtype, device=weight.device)}


# -- writing ----------------------------------------------------------------------------------------------------


def write_file(path: Path, layout: str, states: dict[str, State]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in original(layout, states).items()}
    save_file(tensors, path, {"format": "pt"})


def write_folder(folder: Path, model: Model, states: Iterable[tuple[str, State]], shard: str) -> None:
    """A diffusers folder of fp16 files, part by part; `shard` is the largest file, such as "5GB"."""
    configs = CONFIGS / model.layout
    for name, state in states:
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        part = folder / name
        part.mkdir(parents=True, exist_ok=True)
        pattern = f"{stem}.fp16{{suffix}}.safetensors"
        save_torch_state_dict(state, part, filename_pattern=pattern, max_shard_size=shard)
        index = part / f"{stem}.fp16.safetensors.index.json"
        if index.exists():  # the libraries look for the variant in another place
            index.rename(part / f"{stem}.safetensors.index.fp16.json")
        config = read_json(configs / name / "config.json")
        if name == "unet":
            config["sample_size"] = model.sample_size
        _write(part / "config.json", config)
        if name in PADS:
            pad = PADS[name].get(model.layout, "<|endoftext|>")
            clip_tokenizer(pad=pad).save_pretrained(folder / name.replace("text_encoder", "tokenizer"))
    _write(folder / INDEX, read_json(configs / INDEX))


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")


def make(name: str, out: Path, form: str, *, seed: int, device: str, shard: str) -> Path:
    """Write the model `name` below `out`; returns its folder or its file."""
    model, generator = MODELS[name], torch.Generator(device).manual_seed(seed)
    empty = states_of(parts_of(model.layout))
    filled = ((part, fill(state, torch.float16, generator)) for part, state in empty.items())
    if form == "file":
        path = out / f"{name}.safetensors"
        write_file(path, model.layout, dict(filled))
        return path
    folder = out / name
    write_folder(folder, model, filled, shard)
    scheduler = read_json(CONFIGS / model.layout / SCHEDULER)
    overrides = dict(CATALOG[name].scheduler)
    _write(folder / SCHEDULER, {**scheduler, "_class_name": model.scheduler, **overrides})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="sdxl-turbo")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--format", choices=("folder", "file"), default="folder")
    parser.add_argument("--shard", default="10GB", help="largest file of a folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    began = time.perf_counter()
    path = make(
        options.model,
        options.out,
        options.format,
        seed=options.seed,
        device=options.device,
        shard=options.shard,
    )
    files = [path] if path.is_file() else list(path.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"{path}  {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

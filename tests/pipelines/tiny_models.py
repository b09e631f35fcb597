"""Real pipelines of diffusers with random weights (SDXL, SD, aMUSEd), small enough to run a whole test suite on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UVit2DModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from onestroke.models.specs import Licence, ModelSpec
from onestroke.pipelines.clip_tokenizer import clip_tokenizer
from onestroke.pipelines.muse.super_resolution import SuperResolution

TOKENS = 16
SIZE = 64
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def save_tiny_pipeline(
    folder: Path, *, prediction: str = "v_prediction", kl: bool = False, clip: bool = False
) -> ModelSpec:
    """Write a random SDXL pipeline that draws 64x64 pictures of high contrast, and say how to load it.

    Text and time reach the picture strongly (their layers are scaled up), so that a wrong prompt, timestep or
    coefficient shows. `clip` takes CLIP's own tokens instead of letters.
    """
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        vae=_kl() if kl else tiny_vae(),
        text_encoder=CLIPTextModel(text_config(32, clip=clip)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(48, "gelu", clip=clip)).eval(),
        tokenizer=tokenizer("<|endoftext|>", clip),
        tokenizer_2=tokenizer("!", clip),
        unet=_unet(),
        scheduler=EulerAncestralDiscreteScheduler(prediction_type=prediction, **SCHEDULE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return spec_of(folder)


def spec_of(folder: Path | str) -> ModelSpec:
    """The pipeline that `save_tiny_pipeline` has written to `folder`."""
    return ModelSpec(
        name="tiny",
        source=str(folder),
        family="sdxl",
        description="random weights",
        licence=Licence("none", commercial=True),
        sizes=((SIZE, SIZE), (SIZE, SIZE // 2)),
    )


def save_tiny_sd(folder: Path, layout: str, *, clip: bool = False, vae: Any = None, **unet: Any) -> ModelSpec:
    """The same with the conventions of "sd15" or "sd21" (768: v-prediction); `unet` holds more for its UNet."""
    torch.manual_seed(0)
    second = layout == "sd21"
    width = 48 if second else 32
    layers = 23 if second and clip else 2  # SD 2.1's files hold one more, which is known by its number
    pipeline = StableDiffusionPipeline(
        vae=vae or _contrast(_kl()),
        text_encoder=CLIPTextModel(
            text_config(width, "gelu" if second else "quick_gelu", clip=clip, layers=layers)
        ).eval(),
        tokenizer=tokenizer("!" if second else "<|endoftext|>", clip),
        unet=_strong(
            UNet2DConditionModel(
                **COMMON,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                attention_head_dim=(2, 4) if second else 2,
                use_linear_projection=second,
                cross_attention_dim=width,
                **unet,
            )
        ),
        scheduler=PNDMScheduler(
            prediction_type="v_prediction" if second else "epsilon",
            skip_prk_steps=True,
            **{**SCHEDULE, "timestep_spacing": "leading"},
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return ModelSpec(
        name=layout,
        source=str(folder),
        family="sd",
        description="random weights",
        licence=Licence("none", commercial=True),
        sampler="ddim",
        default_steps=4,
        guidance_scale=3.0,
        sizes=((SIZE, SIZE),),
    )


def save_tiny_muse(folder: Path, layout: str = "amused-256") -> ModelSpec:
    """An aMUSEd pipeline of 16x16 tokens; that of "amused-512" halves them inside its transformer."""
    torch.manual_seed(0)
    large = layout == "amused-512"
    pipeline = AmusedPipeline(
        vqvae=_vq(),
        tokenizer=tokenizer("!", clip=False),
        text_encoder=CLIPTextModelWithProjection(text_config(32)).eval(),
        transformer=_masked_transformer(halved=large),
        scheduler=AmusedScheduler(mask_token_id=CODEBOOK),
    )
    pipeline.save_pretrained(folder)
    return ModelSpec(
        name=layout,
        source=str(folder),
        family="muse",
        description="random weights",
        licence=Licence("none", commercial=True),
        sampler="amused",
        default_steps=12,
        guidance_scale=10.0,
        sizes=((SIZE, SIZE), (SIZE, SIZE // 2)),
    )


CODEBOOK = 40


def add_super_resolution(spec: ModelSpec) -> ModelSpec:
    """Give a model of `save_tiny_muse` the stage that doubles its pictures, which are 128x128 then."""
    torch.manual_seed(2)
    network = SuperResolution(_masked_sizes(SIZE // 2, halved=True), SIZE // 4, num_attention_heads=2).eval()
    _heed(network.transformer)
    network.save_pretrained(Path(spec.source) / "super_resolution")
    return replace(spec, sizes=((2 * SIZE, 2 * SIZE), (SIZE, SIZE)))


def _masked_transformer(*, halved: bool) -> UVit2DModel:
    transformer = UVit2DModel(**_masked_sizes(SIZE // 4, halved=halved)).eval()
    _heed(transformer)
    return transformer


def _masked_sizes(tokens: int, *, halved: bool) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "cond_embed_dim": 32,
        "micro_cond_encode_dim": 4,
        "micro_cond_embed_dim": 5 * 4,
        "encoder_hidden_size": 32,
        "vocab_size": CODEBOOK + 8,
        "codebook_size": CODEBOOK,
        "in_channels": 32,
        "block_out_channels": 32,
        "num_res_blocks": 1,
        "downsample": halved,
        "upsample": halved,
        "block_num_heads": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "sample_size": tokens,
    }


@torch.no_grad()
def _heed(transformer: UVit2DModel) -> None:
    """Let what conditions it reach the logits strongly, so that a wrong one shows."""
    for name, weight in transformer.named_parameters():
        if "attn2.to_" in name or "cond_embed" in name:
            weight.mul_(2.5)
    transformer.mlm_layer.conv2.weight.mul_(1.5)


def _vq() -> VQModel:
    vq = VQModel(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        num_vq_embeddings=CODEBOOK,
        norm_num_groups=8,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        force_upcast=True,
    ).eval()
    with torch.no_grad():
        vq.quantize.embedding.weight.normal_()
        vq.decoder.conv_out.weight.mul_(0.4)
        vq.decoder.conv_out.bias.fill_(0.5)
    return vq


COMMON: dict[str, Any] = {
    "sample_size": SIZE // 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}


def _unet() -> UNet2DConditionModel:
    return _strong(
        UNet2DConditionModel(
            **COMMON,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * 6 + 48,
            cross_attention_dim=32 + 48,
        )
    )


def _strong(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """With text and time that reach the picture."""
    unet.eval()
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2.to_" in name or "time_emb" in name or "add_embedding" in name:
                weight.mul_(2.5)
        unet.conv_out.weight.mul_(2)
    return unet


def tiny_vae() -> AutoencoderTiny:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 0),
    ).eval()
    with torch.no_grad():
        for weight in vae.decoder.parameters():
            weight.mul_(1.6)
        vae.decoder.layers[-1].weight.mul_(8)
        vae.decoder.layers[-1].bias.fill_(0.5)
    return vae


def _kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        force_upcast=True,
    ).eval()


def _contrast(vae: AutoencoderKL) -> AutoencoderKL:
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(6)
    return vae


def text_config(
    width: int, activation: str = "quick_gelu", *, clip: bool = False, layers: int = 2
) -> CLIPTextConfig:
    ends = (
        (0, 2) if clip else (0, 1)
    )  # 2 stands for the largest token of a prompt, in published configurations
    return CLIPTextConfig(
        vocab_size=49408 if clip else len(_vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_act=activation,
        max_position_embeddings=77 if clip else TOKENS,
        bos_token_id=ends[0],
        eos_token_id=ends[1],
        pad_token_id=1,
    )


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return {word: index for index, word in enumerate(words)}


def tokenizer(pad: str, clip: bool = False) -> Any:
    if clip:
        return clip_tokenizer(pad=pad)
    return CLIPTokenizer(vocab=_vocabulary(), merges=[], pad_token=pad, model_max_length=TOKENS)


def tiny_control(unet: UNet2DConditionModel, seed: int = 1) -> ControlNetModel:
    """A random ControlNet for `unet` that has a say: an untrained one adds nothing, its last layers are zeros."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 16, 32), load_weights_from_unet=False
    ).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
                weight.normal_(0, 0.3 if weight.dim() > 1 else 0.1)
            elif name.startswith("controlnet_cond_embedding"):
                weight.mul_(3)
            if "attn2.to_" in name or "time_emb" in name:
                weight.mul_(2.5)
    return net

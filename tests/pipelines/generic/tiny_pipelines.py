"""Random pipelines of the exact classes that are drawn whole: SANA-Sprint, FLUX.1, FLUX.2 klein, Z-Image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from onestroke.models.catalog import CATALOG
from onestroke.models.specs import ModelSpec
from tests.pipelines.tiny_models import text_config, tokenizer

SIDE = 64
WIDTH = 16
LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}: {{ message.content }}<|im_end|>{% endfor %}"
)
QWEN = {word: i for i, word in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", "Ċ", *LETTERS])}
KLEIN_LAYERS = 28
"""FLUX.2 klein reads its text encoder after layers 9, 18 and 27."""


def save(name: str, folder: Path) -> ModelSpec:
    """Write the random pipeline of the catalog's row `name` and say how it is loaded: as that row, but smaller."""
    torch.manual_seed(0)
    pipeline = MAKERS[name]()
    for part in ("text_encoder", "text_encoder_2"):
        if encoder := getattr(pipeline, part, None):
            encoder.get_input_embeddings().weight.data.normal_()
    pipeline.save_pretrained(folder)
    row = CATALOG[name]
    return replace(
        row,
        name=f"tiny-{name}",
        source=str(folder),
        sizes=((SIDE, SIDE), (SIDE, SIDE // 2)),
        call=(*(pair for pair in row.call if pair[0] != "max_sequence_length"), *SMALLER[name]),
    )


SMALLER: dict[str, tuple[tuple[str, Any], ...]] = {
    "sana-sprint": (("max_sequence_length", 32), ("use_resolution_binning", False)),
    "flux1-schnell": (("max_sequence_length", 32),),
    "flux2-klein": (("max_sequence_length", 48),),
    "z-image-turbo": (("max_sequence_length", 48),),
}
"""Binning would make 1024x1024 of every size."""


def _sana() -> DiffusionPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=32,
        qk_norm="rms_norm_across_heads",
        guidance_embeds=True,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    vocabulary = {
        word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS])
    }
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    return SanaSprintPipeline(
        tokenizer=GemmaTokenizer(vocab=vocabulary),
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=_strong(transformer),
        scheduler=SCMScheduler(),
    )


def _flux() -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((each, -2.0) for each in LETTERS),
    ]
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary),
            d_model=WIDTH,
            d_kv=8,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=_kl(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(text_config(32)).eval(),
        tokenizer=tokenizer("<|endoftext|>"),
        text_encoder_2=text_encoder.eval(),
        tokenizer_2=T5Tokenizer(vocab=vocabulary, extra_ids=0),
        transformer=_strong(transformer),
    )


def _klein() -> DiffusionPipeline:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
    )
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_contrast(vae),
        text_encoder=Qwen3ForCausalLM(_qwen(KLEIN_LAYERS)).eval(),
        tokenizer=Qwen2Tokenizer(vocab=QWEN, chat_template=CHAT),
        transformer=_strong(transformer),
        is_distilled=True,
    )


def _z_image() -> DiffusionPipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # which are left as they were found in memory
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Qwen3Model(_qwen(2)).eval(),
        tokenizer=Qwen2Tokenizer(vocab=QWEN, chat_template=CHAT),
        transformer=_strong(transformer),
    )


MAKERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sana-sprint": _sana,
    "flux1-schnell": _flux,
    "flux2-klein": _klein,
    "z-image-turbo": _z_image,
}


def _qwen(layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(QWEN),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )


def _kl(**values: Any) -> AutoencoderKL:
    return _contrast(
        AutoencoderKL(
            block_out_channels=(16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=8,
            **values,
        )
    )


def _contrast(vae: Any) -> Any:
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(6)
    return vae.eval()


def _strong(transformer: Any) -> Any:
    """With text and time that reach the picture, and a last layer that is not zero."""
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if weight.dim() > 1 and not weight.any():
                weight.normal_(std=0.1)
            if any(part in name for part in ("context_embedder", "caption", "cap_embedder", "time", "attn")):
                weight.mul_(2.5)
    return transformer.eval()

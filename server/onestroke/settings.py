"""Every setting, once: a flag of `onestroke serve`, an `ONESTROKE_*` variable, a default that makes sense."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from onestroke.levers import Attention, Compile, DecoderChoice, Levers, Quantize, Switch

Device = Annotated[str, Field(pattern=r"^(auto|(cpu|mps|cuda(:\d+)?)(,(cpu|mps|cuda(:\d+)?))*)$")]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Frozen; derived values are properties. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="ONESTROKE_", frozen=True, extra="forbid")

    model: Annotated[Names, Field(min_length=1)] = Field(
        ("auto",),
        description="Catalog names, hub ids, diffusers folders or .safetensors files; the first is the default.",
    )
    revision: str | None = Field(None, description="Commit, branch or tag of a hub id.")
    vae: str = Field("auto", description="auto, full, tiny, a VAE's hub id, folder or file.")
    unet: str = Field("", description="UNet in place of the model's: file, folder or owner/name:file.")
    adapter: Names = Field((), description="LoRAs as NAME=FILE, FOLDER or owner/name:file (comma-separated).")
    controlnet: Names = Field((), description="ControlNets: catalog names or NAME=SOURCE (comma-separated).")
    recipe: str = Field("auto", description="Catalog name whose steps, sampler and sizes are taken.")
    device: Device = Field("auto", description="Where passes run; several (cuda:0,cuda:1): a worker each.")
    dtype: DType = Field("auto", description="Arithmetic of the network; auto: the fastest safe one.")
    threads: int = Field(0, ge=0, description="CPU threads of the worker; 0: all cores.")

    compile: Compile = Field("auto", description="torch.compile; auto: regional on CUDA, off elsewhere.")
    graphs: Switch = Field("auto", description="A CUDA graph for each verb and batch size.")
    fuse: Switch = Field("auto", description="Self-attention's query, key and value in one product.")
    channels_last: Switch = Field("auto", description="Memory format of the UNet and the decoder.")
    encode_kv: Switch = Field("auto", description="Cross-attention's keys and values made with the prompt.")
    attention: Attention = Field("auto", description="Attention kernel; auto: measured on CUDA.")
    decoder: DecoderChoice = Field("auto", description="VAE decoder; auto: tiny for typists, full for REST.")
    quantize: Quantize = Field(
        "off", description="fp8: the UNet's linear layers in eight bits (CUDA, compiled)."
    )
    prompt_cache: int = Field(0, ge=0, description="MiB of encoded prompts kept; 0: what suits the device.")
    cache_dir: str = Field("", description="Folder of compiled artifacts; empty: the user's cache folder.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    allowed_hosts: Names = Field((), description="Host names to answer to (comma-separated).")
    allowed_origins: Names = Field((), description="Foreign origins whose pages may call (comma-separated).")
    api_key: str | None = Field(None, description="If set, every /v1 route wants it as a bearer token.")

    max_batch: int = Field(8, ge=1, le=64, description="UNet rows in one pass, at most.")
    pass_budget: float = Field(
        0.0, ge=0, description="Longest pass; 0: the shortest that reaches 90% of the best throughput."
    )
    bulk_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of passes, and of the time where batch keys differ, for apps while people type.",
    )
    max_backlog: int = Field(256, ge=1, description="Waiting REST pictures; more are refused with 429.")
    max_wait: float = Field(10.0, gt=0, description="Expected wait beyond which a request is refused.")
    request_timeout: float = Field(30.0, gt=0, description="An accepted request is answered within this.")
    max_sessions: int = Field(256, ge=1, description="Typing sessions at a time.")
    max_prompt_chars: int = Field(4000, ge=1, description="Longest prompt accepted.")
    drain_notice: float = Field(
        0.0, ge=0, description="How long a leaving, unready server still takes work: what balancers need."
    )
    drain_timeout: float = Field(30.0, gt=0, description="How long shutting down waits for accepted work.")

    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level shown.")

    @field_validator("model", "adapter", "allowed_hosts", "allowed_origins", "controlnet", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def levers(self) -> Levers:
        return Levers(**{field.name: getattr(self, field.name) for field in fields(Levers)})

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host == "localhost" or is_loopback(self.host)


def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False

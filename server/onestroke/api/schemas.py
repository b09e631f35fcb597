"""Parts of a request that several faces take in the same words."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from onestroke.api.pictures import Preprocess, Steering
from onestroke.core import Margins

Margin = Annotated[int, Field(ge=0)]


class ControlImage(BaseModel):
    """What a ControlNet steers by; its name may be left out where there is one."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(description="Base64 or a data URL of a PNG, JPEG or WebP picture.")
    name: str | None = None
    scale: float = 1.0
    preprocess: Preprocess = Field("none", description="canny: steer by the picture's edges.")

    def steering(self) -> Steering:
        return Steering(**self.model_dump())


class Expand(BaseModel):
    """Pixels of the drawn picture that a Muse model paints on each side of the one given, which fills the rest."""

    model_config = ConfigDict(extra="forbid")

    left: Margin = 0
    top: Margin = 0
    right: Margin = 0
    bottom: Margin = 0


def margins_of(expand: Expand | None) -> Margins | None:
    return Margins(**expand.model_dump()) if expand else None

"""Client for Onestroke: pictures by REST, and over one socket as one types."""

from onestroke_client.client import AsyncClient, Client
from onestroke_client.errors import (
    ConnectionFailed,
    DrawingFailed,
    InvalidRequest,
    OnestrokeError,
    Overloaded,
    Superseded,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from onestroke_client.picture import Picture
from onestroke_client.stream import Stream

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DrawingFailed",
    "InvalidRequest",
    "OnestrokeError",
    "Overloaded",
    "Picture",
    "Stream",
    "Superseded",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
]

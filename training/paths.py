"""Where things lie: the scratch folder (ignored by git) and the shipped model."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
"""Tarballs, renders, checkpoints and logs; safe to delete, made again by `python -m training data`."""

SHIPPED = HERE.parent / "server" / "onestroke" / "models" / "embedded"
"""The diffusers folder that ships in the wheel."""

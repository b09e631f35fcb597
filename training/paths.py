"""Where things lie: the scratch folder (ignored by git) and the shipped model."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / "work"
"""Tarballs and renders, which `python -m training data` makes again, and checkpoints, which take hours."""

SHIPPED = HERE.parent / "server" / "onestroke" / "models" / "embedded"
"""The diffusers folder that ships in the wheel."""

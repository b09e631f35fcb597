"""The house stands: imports only run downwards, and torch is known to pipelines alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "server" / "onestroke"

FLOORS = [
    {"__main__"},
    {"cli"},
    {"ray"},
    {"serving", "generating", "doctor"},
    {"app"},
    {"api"},
    {"sessions"},
    {"scheduling"},
    {"workers"},
    {"pipelines"},
    {"models"},
    {"metrics", "settings"},
    {"core", "levers"},
    {"errors"},
]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return LEVEL.get(parts[1]) if parts[0] == "onestroke" and len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_run_downwards(path: Path) -> None:
    relative = path.relative_to(PACKAGE).with_suffix("")
    if relative.name == "__init__" and len(relative.parts) == 1:
        return
    own = LEVEL[relative.parts[0]]
    for module in imports_of(path):
        floor = floor_of(module)
        assert floor is None or floor >= own, f"{relative} imports {module}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_by_pipelines_alone(path: Path) -> None:
    if "pipelines" in path.parts:
        return
    heavy = {module.split(".")[0] for module in imports_of(path)} & {"torch", "diffusers", "transformers"}
    assert not heavy, f"{path.name} imports {heavy}"


def test_the_front_starts_without_torch() -> None:
    code = (
        "import sys, onestroke.serving, onestroke.generating, onestroke.doctor; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

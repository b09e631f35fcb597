from __future__ import annotations

from dataclasses import replace

from onestroke.models.cards import card, described
from onestroke.models.catalog import CATALOG
from onestroke.models.specs import FileSpec

SDXL = CATALOG["sdxl-base"]


def test_a_card_tells_no_path_of_this_machine() -> None:
    spec = replace(
        SDXL, source="/secret/model", loras=(FileSpec("/secret/pixel.safetensors"), FileSpec("a/b", "c"))
    )
    assert "/secret" not in str(card(spec))
    assert card(spec)["parts"] == ["pixel.safetensors", "a/b:c"]


def test_what_is_not_known_is_none_and_not_nothing() -> None:
    told = card(replace(SDXL, memory_bytes=0, download_bytes=0, limits=""))
    assert (told["memory_bytes"], told["download_bytes"], told["limits"]) == (None, None, None)


def test_lines_name_steps_sizes_weights_and_parts() -> None:
    first, *others = described(SDXL, here=False)
    assert first == (
        "1024x1024 in 30 steps (up to 50), guidance 5, 8 other sizes; weights: 6.9 GB to fetch; memory: 12.0 GB"
    )
    assert others[-1] == f"from {SDXL.at}"
    assert "1 step, guidance 0; weights: here" in described(CATALOG["sdxs-512"], here=True)[0]
    assert "dmd2_sdxl_4step_unet_fp16.safetensors" in described(CATALOG["dmd2-4step"], here=True)[-1]

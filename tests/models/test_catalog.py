from __future__ import annotations

import itertools
from dataclasses import replace

from onestroke.models.catalog import CATALOG, RECIPES, VAES
from onestroke.models.specs import SAMPLERS, Licence


def test_every_row_can_serve_its_own_defaults() -> None:
    for name, spec in CATALOG.items():
        assert spec.name == name
        assert 1 <= spec.default_steps <= spec.max_steps
        assert spec.sampler in spec.samplers
        assert (spec.samplers == SAMPLERS) == (spec.family in ("sdxl", "sd"))
        assert spec.sizes


NOT_PINNED = ("lcm-dreamshaper", "amused-512")


def test_every_row_that_is_fetched_is_pinned_and_says_what_it_takes() -> None:
    for spec in CATALOG.values():
        assert spec.licence.url
        assert spec.memory_bytes > spec.download_bytes or spec.unet, "a UNet may be published in fp32"
        if not spec.is_local:
            unpinned = spec.whole or spec.name in NOT_PINNED
            assert len(spec.revision or "") == 40 or unpinned
            assert all(len(extra.revision or "") == 40 for extra in spec.extras)
            assert spec.download_bytes > 1e9


def test_every_family_has_a_tiny_vae_and_sdxl_a_safe_full_one() -> None:
    kinds = {(vae.family, vae.kind) for vae in VAES.values()}
    assert {("sdxl", "full"), ("sdxl", "tiny"), ("sd", "tiny")} <= kinds


def test_recipes_are_the_rows_and_sd_21s() -> None:
    assert set(RECIPES) == {*CATALOG, "sd21", "sd21-base", "dmd2-1step"}


def test_a_row_fetches_its_own_unet_once_and_what_lies_beside() -> None:
    base = CATALOG["sdxl-base"].download_bytes
    assert CATALOG["sdxl-lightning-4step"].download_bytes == base
    assert CATALOG["dmd2-4step-lora"].download_bytes > base


def test_terms_are_said_in_words() -> None:
    assert Licence("x", commercial=None).terms == "commercial terms unknown"


def test_a_seed_chooses_its_crop_always_the_same_and_all_in_turn() -> None:
    spec = replace(CATALOG["embedded"], crops=(-16, 0, 16))
    chosen = [spec.crop(seed) for seed in range(200)]
    assert chosen == [spec.crop(seed) for seed in range(200)]
    assert set(chosen) == set(itertools.product(spec.crops, repeat=2))
    assert replace(spec, crops=(0,)).crop(2**53 - 1) == (0, 0)

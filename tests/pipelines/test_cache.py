"""What is kept is what was used last, and no more than fits."""

from __future__ import annotations

import torch

from onestroke.pipelines.cache import ByteCache


def entry(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


def test_the_cache_forgets_the_least_recently_used_beyond_its_bytes() -> None:
    cache = ByteCache[torch.Tensor](max_bytes=30)
    for name in "abc":
        cache.put(name, entry(10))
    assert cache.get("a") is not None
    cache.put("d", entry(10))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.nbytes == 30


def test_the_cache_counts_a_replaced_entry_once_and_holds_nothing_larger_than_itself() -> None:
    cache = ByteCache[torch.Tensor](max_bytes=30)
    cache.put("a", entry(10))
    cache.put("a", entry(20))
    assert (cache.nbytes, len(cache)) == (20, 1)
    cache.put("b", entry(31))
    assert (cache.nbytes, len(cache)) == (0, 0)

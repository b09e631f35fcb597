"""Static buffers keep rows apart: padding, staging, results that outlive the next replay, recordings."""

from __future__ import annotations

import pytest
import torch

from onestroke.pipelines.graphs import Graphed, Outputs, Run
from onestroke.pipelines.transfer import Staging, Transfers

CPU = torch.device("cpu")
BUCKETS = (1, 2, 4)


class Replays:
    """A recorder that behaves as a CUDA graph does: it runs from the same buffers into the same results."""

    def __init__(self) -> None:
        self.is_open = True
        self.recorded = 0
        self.replayed = 0

    def record(self, run: Run) -> Run:
        self.recorded += 1
        outputs = tuple(output.clone() for output in run())

        def replay() -> Outputs:
            self.replayed += 1
            for output, fresh in zip(outputs, run(), strict=True):
                output.copy_(fresh)
            return outputs

        return replay


def double_and_add(rows: torch.Tensor, table: torch.Tensor) -> Outputs:
    return rows * 2 + table[:, :1], table.sum(1)


@pytest.fixture(params=["eager", "replayed"])
def recorder(request: pytest.FixtureRequest) -> Replays | None:
    return Replays() if request.param == "replayed" else None


@pytest.fixture
def graphed(recorder: Replays | None) -> Graphed:
    return Graphed(double_and_add, buckets=BUCKETS, device=CPU, recorder=recorder)


def batch(n: int, start: float = 0.0) -> tuple[list[torch.Tensor], torch.Tensor]:
    return [torch.full((3,), start + i) for i in range(n)], torch.arange(2.0 * n).view(n, 2) + start


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_results_are_the_functions_own_in_every_bucket(graphed: Graphed, n: int) -> None:
    for start in (0.0, 7.0):
        rows, table = batch(n, start)
        expected = double_and_add(torch.stack(rows), table)
        for found, right in zip(graphed(rows, table), expected, strict=True):
            assert torch.equal(found, right)


def test_results_are_not_changed_by_the_next_call(graphed: Graphed) -> None:
    first = graphed(*batch(2))
    kept = [output.clone() for output in first]
    graphed(*batch(2, 100.0))
    assert all(torch.equal(output, copy) for output, copy in zip(first, kept, strict=True))


def test_rows_beyond_the_batch_are_zeros_whatever_was_there_before() -> None:
    seen: list[torch.Tensor] = []

    def watch(rows: torch.Tensor, table: torch.Tensor) -> Outputs:
        seen.extend((rows.clone(), table.clone()))
        return double_and_add(rows, table)

    graphed = Graphed(watch, buckets=BUCKETS, device=CPU)
    for n, bucket in ((4, 4), (1, 1), (3, 4), (2, 2), (3, 4)):
        seen.clear()
        rows, table = batch(n, 5.0)
        graphed([row * float("inf") if n == 4 else row for row in rows], table)
        for found in seen:
            assert len(found) == bucket
            assert found[:n].abs().min() > 0
            assert (found[n:] == 0).all()


def test_each_bucket_and_shape_is_recorded_once_and_nothing_after_the_recorder_is_closed() -> None:
    recorder = Replays()
    graphed = Graphed(double_and_add, buckets=BUCKETS, device=CPU, recorder=recorder)
    for n in (1, 2, 3, 4, 1, 3):
        graphed(*batch(n))
    assert (recorder.recorded, recorder.replayed) == (3, 6)
    assert graphed.recorded == [1, 2, 4]
    recorder.is_open = False
    other = [torch.ones(5)], torch.ones(1, 2)
    assert torch.equal(graphed(*other)[0], torch.full((1, 5), 3.0))
    assert (recorder.recorded, recorder.replayed) == (3, 6)
    graphed(*batch(2))
    assert recorder.replayed == 7


def test_more_rows_than_the_largest_bucket_are_refused(graphed: Graphed) -> None:
    with pytest.raises(ValueError, match="5 rows are more than the largest bucket, 4"):
        graphed(*batch(5))


def test_a_function_that_raises_leaves_the_next_call_whole(recorder: Replays | None) -> None:
    broken = True

    def fails(rows: torch.Tensor) -> Outputs:
        if broken:
            raise RuntimeError("out of memory")
        return (rows + 1,)

    graphed = Graphed(fails, buckets=BUCKETS, device=CPU, recorder=recorder)
    with pytest.raises(RuntimeError):
        graphed([torch.ones(2)] * 4)
    broken = False
    assert torch.equal(graphed([torch.ones(2)] * 3)[0], torch.full((3, 2), 2.0))


def devices() -> list[object]:
    return [CPU, pytest.param(torch.device("cuda"), marks=[pytest.mark.gpu])]


@pytest.fixture(params=devices(), ids=str)
def device(request: pytest.FixtureRequest) -> torch.device:
    found: torch.device = request.param
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return found


def test_what_was_staged_holds_until_the_second_batch_after_it(device: torch.device) -> None:
    stream = Transfers(device)._stream
    staging = Staging(4, torch.Size([2]), torch.float32, device, stream)
    batches = [torch.full((n, 2), float(n)) for n in (4, 2, 3, 1)]
    kept: list[torch.Tensor] = []
    for i, each in enumerate(batches):
        kept.append(staging.put(each))
        staging.taken()
        each.fill_(-1.0)  # the caller's own again
        for j in (i - 1, i):
            if j >= 0:
                assert torch.equal(kept[j].cpu(), torch.full_like(batches[j], float((4, 2, 3, 1)[j])))
    assert kept[0].data_ptr() == kept[2].data_ptr()
    assert kept[0].data_ptr() != kept[1].data_ptr()


def test_transfers_bring_what_was_sent(device: torch.device) -> None:
    transfers = Transfers(device)
    sent = torch.randn(3, 5)
    there = transfers.up(sent).wait()
    assert there.device.type == device.type
    back, twice = transfers.down(there, there * 2).wait()
    assert torch.equal(back, sent)
    assert torch.equal(twice, sent * 2)

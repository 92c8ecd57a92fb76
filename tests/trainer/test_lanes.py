"""Lanes read their shards in order without a gap, say where a state must be zeroed, and continue from their cursors."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runs import write_shards
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.run.lanes import Ahead, Cursor, Lanes


def corpus_of(directory: Path, sizes: list[int]) -> Corpus:
    """Training shards of these sizes; byte n of shard k tells both: (37k + n) mod 251."""
    shards = [((37 * number + np.arange(size)) % 251).astype(np.uint8) for number, size in enumerate([*sizes, 40, 40])]
    return Corpus(write_shards(directory, [shard.tobytes() for shard in shards]))


def expected_windows(corpus: Corpus, lane: int, lanes: int, window: int) -> list[tuple[bytes, bool]]:
    """One round of a lane, plainly."""
    found = []
    for entry in corpus.training[lane::lanes]:
        data = corpus.read(entry).tobytes()
        found += [(data[at : at + window + 1], at == 0) for at in range(0, len(data) - window, window)]
    return found


@given(
    sizes=st.lists(st.integers(8, 60), min_size=1, max_size=7),
    lanes=st.integers(1, 4),
    window=st.integers(1, 7),
)
@settings(deadline=None, max_examples=60)
def test_every_lane_reads_its_shards_in_order_and_goes_round(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lanes: int, window: int
) -> None:
    lanes = min(lanes, len(sizes))
    corpus = corpus_of(tmp_path_factory.mktemp("corpus"), sizes)
    streams = Lanes(corpus, lanes, window)
    rounds = [expected_windows(corpus, lane, lanes, window) for lane in range(lanes)]
    for number in range(2 * max(map(len, rounds)) + 1):
        block, begins, _ = streams.next()
        assert block.shape == (window + 1, lanes)
        assert block.dtype == np.uint8
        for lane, windows in enumerate(rounds):
            data, fresh = windows[number % len(windows)]
            assert block[:, lane].tobytes() == data
            assert begins[lane] == fresh


@pytest.mark.parametrize(("skip", "shards"), [(0, [0, 0]), (1, [0, 0]), (2, [1, 1]), (20, [1, 1]), (22, [2, 1])])
@pytest.mark.parametrize("rounds", [0, 3])
def test_lanes_begin_behind_what_was_read(tmp_path: Path, skip: int, shards: list[int], rounds: int) -> None:
    corpus = corpus_of(tmp_path, [10, 20, 30, 20])  # lane 0 reads 10 and 30 bytes, lane 1 twice 20
    streams = Lanes(corpus, lanes=2, window=4, skip_bytes=rounds * 80 + skip)
    assert streams.cursors == [Cursor(2 * rounds + shard, 0) for shard in shards]
    window, begins, _ = streams.next()
    assert begins.all()
    for lane, shard in enumerate(shards):
        assert window[:, lane].tobytes() == corpus.read(corpus.training[lane::2][shard % 2])[:5].tobytes()


def test_windows_overlap_by_the_target_byte(tmp_path: Path) -> None:
    streams = Lanes(corpus_of(tmp_path, [50, 50]), lanes=2, window=6)
    before, *_ = streams.next()
    for _ in range(7):
        after, begins, _ = streams.next()
        assert not begins.any()
        assert np.array_equal(after[0], before[-1])
        before = after
    assert streams.next()[1].all()  # 8 windows of 6 and one target: 49 of the 50 bytes


def test_a_shard_that_is_just_filled_loses_nothing(tmp_path: Path) -> None:
    streams = Lanes(corpus_of(tmp_path, [13, 20]), lanes=1, window=6)
    blocks = [streams.next() for _ in range(3)]
    assert [bool(begins[0]) for _, begins, _ in blocks] == [True, False, True]
    assert blocks[1][0][-1, 0] == 12  # the last byte of the shard, as a target


@given(steps=st.integers(0, 40))
@settings(deadline=None, max_examples=20)
def test_restored_cursors_go_on_identically(tmp_path_factory: pytest.TempPathFactory, steps: int) -> None:
    corpus = corpus_of(tmp_path_factory.mktemp("corpus"), [30, 45, 23, 61, 38])
    streams = Lanes(corpus, lanes=2, window=5)
    for _ in range(steps):
        streams.next()
    again = Lanes(corpus, lanes=2, window=5)
    again.restore([Cursor(cursor.shard, cursor.offset) for cursor in copy.deepcopy(streams.cursors)])
    for _ in range(30):
        (block, begins, _), (block_again, begins_again, _) = streams.next(), again.next()
        assert np.array_equal(block, block_again)
        assert np.array_equal(begins, begins_again)


def test_cursors_of_another_number_of_lanes_are_refused(tmp_path: Path) -> None:
    streams = Lanes(corpus_of(tmp_path, [30, 30]), lanes=2, window=5)
    with pytest.raises(ValueError, match="shorter"):
        streams.restore([Cursor(0, 0)])


def test_more_lanes_than_shards(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"3 lanes need .* the corpus has 2: lower --lanes"):
        Lanes(corpus_of(tmp_path, [30, 30]), lanes=3, window=5)


def test_a_window_that_a_shard_cannot_fill(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [30, 12, 30])
    Lanes(corpus, lanes=1, window=11)
    with pytest.raises(CorpusError, match=r"shard-00001.bin holds 12 bytes, too few for a window of 12"):
        Lanes(corpus, lanes=1, window=12)


def test_a_cut_shard_is_noticed_when_its_turn_comes(tmp_path: Path) -> None:
    streams = Lanes(corpus_of(tmp_path, [13, 30]), lanes=1, window=6)
    (tmp_path / "shard-00001.bin").write_bytes(b"short")
    streams.next()
    streams.next()
    with pytest.raises(CorpusError, match=r"shard-00001.bin holds 5 bytes"):
        streams.next()


@given(steps=st.integers(0, 30), depth=st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_what_is_cut_ahead_does_not_count_as_read(
    tmp_path_factory: pytest.TempPathFactory, steps: int, depth: int
) -> None:
    corpus = corpus_of(tmp_path_factory.mktemp("corpus"), [30, 45, 23, 61, 38])
    plain, cpu = Lanes(corpus, lanes=2, window=5), torch.device("cpu")
    ahead = Ahead(Lanes(corpus, lanes=2, window=5), cpu, depth)
    for _ in range(steps):
        (block, begins, _), (window, targets, fresh) = plain.next(), ahead.next()
        assert np.array_equal(block[:-1], window.numpy())
        assert np.array_equal(block[1:], targets.bytes.numpy())
        assert np.array_equal(begins, fresh.numpy()[:, 0])
        assert ahead.cursors == plain.cursors
    other = Ahead(Lanes(corpus, lanes=2, window=5), cpu, depth)
    for _ in range(3):
        other.next()
    other.restore(ahead.cursors)
    assert other.cursors == plain.cursors
    for _ in range(30):
        assert torch.equal(other.next()[0], ahead.next()[0])


def test_a_fault_ahead_is_told_when_its_window_is_due(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [13, 30])
    (tmp_path / "shard-00001.bin").write_bytes(b"short")
    ahead = Ahead(Lanes(corpus, lanes=1, window=6), torch.device("cpu"))
    ahead.next()
    ahead.next()
    with pytest.raises(CorpusError, match=r"shard-00001.bin holds 5 bytes"):
        ahead.next()

"""The draw of a byte as one Triton kernel, `draw`, for CUDA: the same as sampling.py, byte for byte."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

from engine import block as layout

_STEPS = tl.constexpr(layout.STEPS)
_SAMPLES_FROM = tl.constexpr(layout.SAMPLES_FROM)
_FIRST_DRAW = tl.constexpr(layout.FIRST_DRAW)
_SEED = tl.constexpr(layout.SEED)
_TOP_K = tl.constexpr(layout.TOP_K)
_TEMPERATURE = tl.constexpr(layout.TEMPERATURE)
_TOP_P = tl.constexpr(layout.TOP_P)

_BYTES = tl.constexpr(256)
COMPARED = 16  # bytes that a sample compares with all others at once


@triton.jit
def _scramble(value):
    """splitmix64's finalizer, as in sampling.py."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit
def _uniform(seed, position):
    """Draw `position` of `seed`, float64 in [0, 1)."""
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    seed, position = seed.to(tl.uint64, bitcast=True), position.to(tl.uint64, bitcast=True)
    mixed = _scramble(_scramble(seed + golden) + (position + 1) * golden)
    return (mixed >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit(do_not_specialize=["offset", "most_rows"])
def draw(product, output_b, last, sampled, log_probability, row_params, offset, most_rows, tile: tl.constexpr):
    """Sample as sampling.py does, a row a program: what stands ahead of a byte is counted instead of sorted."""
    row = tl.program_id(0)
    at = tl.load(row_params) + offset
    first = tl.load(row_params + _SAMPLES_FROM * most_rows + row)
    if (at >= first) & (at < tl.load(row_params + _STEPS * most_rows + row)):
        temperature = tl.load(row_params + _TEMPERATURE * most_rows + row).to(tl.float64, bitcast=True).to(tl.float32)
        top_p = tl.load(row_params + _TOP_P * most_rows + row).to(tl.float64, bitcast=True).to(tl.float32)
        greedy = temperature < 1e-4
        divisor = tl.where(greedy, 1.0, temperature)
        byte = tl.arange(0, _BYTES)
        logit = tl.load(product + row * _BYTES + byte).to(tl.float32) + tl.load(output_b + byte)
        scaled = tl.div_rn(logit, divisor)
        largest = tl.max(scaled, 0)
        weight = tl.exp((scaled - largest).to(tl.float64))
        total = tl.sum(weight, 0)

        rank = tl.zeros((_BYTES,), tl.int32)
        before = tl.zeros((_BYTES,), tl.float64)
        for begin in range(0, _BYTES, tile):
            other = begin + tl.arange(0, tile)
            other_logit = tl.load(product + row * _BYTES + other).to(tl.float32) + tl.load(output_b + other)
            other_scaled = tl.div_rn(other_logit, divisor)
            is_ahead = (other_scaled[:, None] > scaled[None, :]) | (
                (other_scaled[:, None] == scaled[None, :]) & (other[:, None] < byte[None, :])
            )
            rank += tl.sum(is_ahead.to(tl.int32), 0)
            probability = tl.exp((other_scaled - largest).to(tl.float64)) / total
            before += tl.sum(tl.where(is_ahead, probability[:, None], 0.0), 0)

        top_k = tl.where(greedy, 1, tl.load(row_params + _TOP_K * most_rows + row))
        keep = (rank < top_k) & ((before < top_p.to(tl.float64)) | (rank == 0))
        cumulative = before + weight / total
        kept = tl.sum(tl.where(keep, weight / total, 0.0), 0)
        number = tl.load(row_params + _FIRST_DRAW * most_rows + row) + at - first
        threshold = _uniform(tl.load(row_params + _SEED * most_rows + row), number) * kept
        chosen = tl.minimum(
            tl.sum((keep & (cumulative <= threshold)).to(tl.int32), 0), tl.sum(keep.to(tl.int32), 0) - 1
        )
        choice = tl.sum(tl.where(rank == chosen, byte, 0), 0)
        top = tl.max(logit, 0)
        normalizer = top + tl.log(tl.sum(tl.exp(logit - top), 0))
        tl.store(last + row, choice.to(tl.int64))
        tl.store(sampled + at * most_rows + row, choice.to(tl.uint8))
        tl.store(log_probability + at * most_rows + row, tl.sum(tl.where(byte == choice, logit, 0.0), 0) - normalizer)

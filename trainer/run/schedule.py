"""How far a run is, by the bytes read or by the clock, and what follows: its learning rates, and when it validates."""

from trainer.run.options import Options
from trainer.run.snapshot import Progress

VALIDATIONS = 200  # in a run
_LEAST_BYTES = 2_000_000  # from one to the next


def done(options: Options, progress: Progress) -> float:
    """The share of a run that is done; from 1 on it has ended."""
    if options.total_seconds:
        return progress.seconds / options.total_seconds
    return progress.bytes_seen / options.total_bytes


def rate_factor(options: Options, progress: Progress) -> float:
    """What the learning rates of the next update are multiplied by: linear warm-up, linear to zero at the end."""
    left = max(0.0, 1.0 - done(options, progress))
    return left * min(1.0, (progress.step + 1) / max(1, options.warmup_steps))


def validation_due(options: Options, progress: Progress, done_before: float) -> bool:
    """Whether the update that has just been made is followed by a validation, as the last of a run always is.

    done_before: `done` before that update.
    """
    now = done(options, progress)
    if now >= 1:
        return True
    if options.total_seconds and not options.validate_every_bytes:
        unvalidated = (progress.step - (progress.validation_step or 0)) * options.update_bytes
        return int(now * VALIDATIONS) > int(done_before * VALIDATIONS) and unvalidated >= _LEAST_BYTES
    every = options.validate_every_bytes or max(_LEAST_BYTES, options.total_bytes // VALIDATIONS)
    return progress.bytes_seen // every > (progress.bytes_seen - options.update_bytes) // every

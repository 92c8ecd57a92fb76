"""Which requests of a load count, and in what time."""

from collections.abc import Sequence


def counted(ended: Sequence[float], warm_up_s: float, seconds: float) -> tuple[list[int], float]:
    """(indices of the requests that ended in the load's time after its warm-up, that time in seconds).

    A load may be slower than its time: then the requests that were under way at its end count, and the time lasts until
    the last of them has ended.

    Args:
        ended: When each request ended, in seconds since the load began.
    """
    in_time = [index for index, at in enumerate(ended) if warm_up_s <= at <= seconds]
    if in_time:
        return in_time, seconds - warm_up_s
    late = [index for index, at in enumerate(ended) if at > seconds]
    since = max((at for at in ended if at < warm_up_s), default=0.0)
    return late, max(ended, default=seconds) - since

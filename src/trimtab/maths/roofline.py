"""The least time a piece of work can take: its arithmetic or its memory traffic, whichever is slower.

Source: Williams, Waterman and Patterson (2009), CACM 52(4):65.
"""


def roofline_s(
    operations: float, moved_bytes: float, peak_rate: float, bandwidth: float, overhead_s: float = 0.0
) -> float:
    """Seconds for `operations` at `peak_rate` (1/s) and `moved_bytes` at `bandwidth` (bytes/s), overlapped.

    `overhead_s` is added: what each launch or call costs whatever its size.

    >>> roofline_s(operations=2e9, moved_bytes=1e8, peak_rate=1e11, bandwidth=1e10)
    0.02

    Raises:
        ValueError: if an amount is negative, or a rate not positive.
    """
    if min(operations, moved_bytes, overhead_s) < 0 or min(peak_rate, bandwidth) <= 0:
        raise ValueError(
            f"operations {operations}, bytes {moved_bytes}, peak {peak_rate}, bandwidth {bandwidth}; "
            "amounts must be 0 or more and rates above 0"
        )
    return max(operations / peak_rate, moved_bytes / bandwidth) + overhead_s


def intensity_ridge(peak_rate: float, bandwidth: float) -> float:
    """Operations per byte above which arithmetic, not memory, is the limit.

    >>> intensity_ridge(1e11, 1e10)
    10.0
    """
    return peak_rate / bandwidth

"""Speed as a ratio: two pieces of work interleaved, so that a slower machine slows both."""

import statistics
import time


def medians(*works, rounds=15, warmup=2, again=0):
    """Median seconds of each piece of work, run round-robin.

    With `again`, that many calls come before each timed one: they displace the other work's data from the caches, as
    when a method runs by itself.
    """
    samples = [[] for _ in works]
    for i in range(warmup + rounds):
        for work, kept in zip(works, samples, strict=True):
            for _ in range(again):
                work()
            start = time.perf_counter()
            work()
            if i >= warmup:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in samples]


def compare(benchmark, ours, theirs, **options):
    """How many times faster `ours` is than `theirs`; `ours` is recorded as a benchmark, with the ratio."""
    mine, other = medians(ours, theirs, **options)
    benchmark.extra_info["ratio"] = other / mine
    benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
    return other / mine

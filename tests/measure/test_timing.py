"""Timing with clocks that the tests wind themselves: no test depends on how fast this machine is."""

import gc

import pytest
import torch

from milbench.measure.timing import DeviceTimer, Samples, Stopwatch, time_calls, time_turns


class Clock:
    """Nanoseconds that pass only when somebody works."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def work(self, seconds):
        def call():
            self.now += int(seconds * 1e9)
            self.calls = getattr(self, "calls", 0) + 1

        return call


def test_at_least_so_many_calls():
    clock = Clock()
    samples = time_calls(clock.work(1.0), warmup=2, min_iterations=4, min_seconds=0.2, clock=clock)
    assert samples.seconds == (1.0,) * 4
    assert clock.calls == 6
    assert samples.complete


def test_at_least_so_long():
    clock = Clock()
    samples = time_calls(clock.work(0.01), warmup=0, min_iterations=2, min_seconds=0.2, clock=clock)
    assert len(samples) == 20


def test_stops_when_it_takes_too_long_and_says_so():
    clock = Clock()
    samples = time_calls(clock.work(4.0), warmup=3, min_iterations=10, max_seconds=30.0, clock=clock)
    assert clock.calls == 8
    assert len(samples) == 5
    assert not samples.complete


def test_one_call_is_timed_even_when_the_warm_up_took_all_the_time():
    clock = Clock()
    samples = time_calls(clock.work(100.0), warmup=3, max_seconds=30.0, clock=clock)
    assert clock.calls == 2
    assert samples.seconds == (100.0,)
    assert not samples.complete


def test_garbage_is_not_collected_meanwhile():
    seen = []
    time_calls(lambda: seen.append(gc.isenabled()), warmup=1, min_iterations=1, min_seconds=0)
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_returns_after_an_error():
    with pytest.raises(ZeroDivisionError):
        time_calls(lambda: 1 / 0)
    assert gc.isenabled()


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(ValueError, match="min_iterations"):
        time_calls(lambda: None, min_iterations=0)


def test_statistics():
    samples = Samples((1.0, 2.0, 3.0, 4.0, 100.0))
    assert samples.median == 3.0
    assert samples.quartiles == (2.0, 4.0)
    assert samples.iqr == 2.0
    assert Samples((2.0,)).iqr == 0.0


@pytest.mark.parametrize("kind", [Stopwatch, lambda clock: DeviceTimer("cpu", clock)])
def test_adds_up_what_it_wraps_and_nothing_else(kind):
    clock = Clock()
    watch, work = kind(clock), clock.work(2.0)
    assert watch.seconds == 0
    for _ in range(3):
        with watch:
            work()
        work()
    assert watch.seconds == 6.0


def test_counts_a_block_that_raised_and_can_go_on():
    clock = Clock()
    watch = Stopwatch(clock)

    def fail():
        with watch:
            clock.work(1.0)()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with watch:
        clock.work(1.0)()
    assert watch.seconds == 2.0


def test_does_not_nest():
    watch = Stopwatch()
    with watch, pytest.raises(RuntimeError, match="running"), watch:
        pass


class Device:
    """A CUDA device of which only time is real: work is queued, and done when somebody waits for it."""

    def __init__(self, monkeypatch):
        self.now, self.queued, self.waits = 0.0, 0.0, 0
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(self))

    def wait(self, device=None):
        self.now, self.queued, self.waits = self.now + self.queued, 0.0, self.waits + 1

    def launch(self, seconds):
        self.queued += seconds


class Event:
    def __init__(self, device):
        self.device, self.at = device, None

    def record(self, stream):
        self.at = self.device.now + self.device.queued

    def query(self):
        return self.at <= self.device.now

    def synchronize(self):
        if not self.query():
            self.device.wait()

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


def test_a_call_on_cuda_is_over_when_the_device_is_done(monkeypatch):
    device = Device(monkeypatch)
    samples = time_calls(lambda: device.launch(2.0), warmup=1, min_iterations=3, min_seconds=0, device="cuda",
                         clock=lambda: int(device.now * 1e9))  # fmt: skip
    assert samples.seconds == (2.0, 2.0, 2.0)
    assert device.waits == 5, "before the first call, and after each"


def test_device_seconds_are_added_up_without_waiting(monkeypatch):
    device = Device(monkeypatch)
    timer = DeviceTimer("cuda")
    for _ in range(1000):
        with timer:
            device.launch(0.5)
        device.launch(0.25)
    assert device.waits == 0
    assert timer.seconds == pytest.approx(500.0)
    assert timer.seconds == pytest.approx(500.0), "asking again counts nothing twice"


def test_device_timer_lets_go_of_what_is_over(monkeypatch):
    device = Device(monkeypatch)
    timer = DeviceTimer("cuda")
    for _ in range(1000):
        with timer:
            device.launch(0.5)
        device.wait()
    assert len(timer._events) < 256
    assert timer.seconds == pytest.approx(500.0)


def test_turns_are_taken_and_every_work_gets_its_own_samples():
    clock, order = Clock(), []

    def named(name, seconds):
        work = clock.work(seconds)
        return lambda: (order.append(name), work())

    a, b = time_turns([named("a", 1.0), named("b", 2.0)], turns=3, warmup=1, clock=clock)
    assert "".join(order) == "ab" + "ab" * 3
    assert (a.seconds, b.seconds) == ((1.0,) * 3, (2.0,) * 3)


def test_a_short_work_settles_and_repeats_in_its_turn():
    clock, order = Clock(), []
    short = clock.work(0.004)
    works = [lambda: (order.append("s"), short()), lambda: (order.append("l"), clock.work(1.0)())]
    samples, _ = time_turns(works, turns=2, warmup=0, turn_seconds=0.02, clock=clock)
    # Untimed once, as the other work has had the caches, then five times 4 ms; the long one needs neither.
    # It is not known to be long before its first call.
    assert "".join(order) == "s" * 6 + "ll" + "s" * 6 + "l"
    assert len(samples) == 10
    many, _ = time_turns([clock.work(1e-6), clock.work(1.0)], turns=2, clock=clock)
    assert len(many) == 2 * 25


def test_a_long_work_is_warmed_up_once():
    clock = Clock()
    time_turns([clock.work(6.0)], turns=1, warmup=3, clock=clock)
    assert clock.calls == 2


def test_turns_collect_no_garbage_meanwhile():
    seen = []
    time_turns([lambda: seen.append(gc.isenabled())], turns=1)
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"works": []}, {"turns": 0}, {"warmup": -1}])
def test_turns_that_time_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="works and turns"):
        time_turns(**{"works": [lambda: None], "turns": 1} | wrong)


def test_turns_on_cuda_count_the_device_alone(monkeypatch):
    """Events stand around the call: what clears the caches before it, and the host, are not counted."""
    device, cleared = Device(monkeypatch), []

    def clear():
        cleared.append(device.now)
        device.launch(7.0)

    (timed,) = time_turns([lambda: device.launch(2.0)], turns=3, warmup=1, device="cuda", before=clear)
    assert timed.seconds == (2.0, 2.0, 2.0)
    assert len(cleared) == 4
    assert device.queued == 0, "every call has ended before the next starts"

"""The meter of a loop, against a device and a clock that the tests move by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from kdjax import train
from kdjax.train import throughput
from kdjax.train.throughput import Throughput


class Device:
    """Runs what is dispatched in order, a second each; the clock is its own."""

    def __init__(self):
        self.now = 0.0
        self.free = 0.0

    def dispatch(self, seconds=1.0):
        self.free = max(self.now, self.free) + seconds
        return Result(self, self.free)

    def perf_counter(self):
        return self.now


class Result:
    def __init__(self, device, end):
        self.device, self.end = device, end

    def is_ready(self):
        return self.device.now >= self.end

    def block_until_ready(self):
        self.device.now = max(self.device.now, self.end)
        return self


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(throughput, "time", device)
    return device


def loop(device, meter, steps, *, wait_every=1, **kwargs):
    """Wait, as one does who reads the loss, after every so many steps."""
    for step in range(1, steps + 1):
        result = device.dispatch(**kwargs)
        yield meter(result)
        if step % wait_every == 0:
            result.block_until_ready()


def reported(speeds):
    return [speed for speed in speeds if speed is not None]


def test_what_is_reported_is_the_speed(device):
    meter = Throughput(every=10, examples=64, tokens=320, flops=6e9, peak=12e9)
    speeds = reported(loop(device, meter, 41))
    assert len(speeds) == 3
    for speed in speeds:
        assert speed == pytest.approx(
            {
                "step_seconds": 1.0,
                "examples_per_second": 64.0,
                "tokens_per_second": 320.0,
                "utilization": 0.5,
            }
        )


def test_utilization_needs_both_flops_and_peak(device):
    meter = Throughput(every=1, examples=64, flops=6e9, peak=None)
    speed = reported(loop(device, meter, 3))[0]
    assert set(speed) == {"step_seconds", "examples_per_second"}


def test_the_first_step_is_left_out(device):
    meter = Throughput(every=4, examples=1)
    device.now = 50.0  # of compilation, in which the host waits
    assert reported(loop(device, meter, 1, seconds=30.0)) == []
    speeds = reported(loop(device, meter, 9))
    assert [speed["step_seconds"] for speed in speeds] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("wait_every", [1, 3, 20, 50])
@pytest.mark.parametrize("every", [1, 7, 20, 30])
def test_a_host_far_ahead_changes_no_speed(device, every, wait_every):
    meter = Throughput(every=every, examples=1)
    speeds = reported(loop(device, meter, 201, wait_every=wait_every))
    assert speeds
    found = [speed["step_seconds"] for speed in speeds]
    assert found == pytest.approx([1.0] * len(found))


def test_a_step_under_way_is_not_counted_yet(device):
    meter = Throughput(every=4, examples=1)
    first = device.dispatch()
    device.now = 1.0
    assert meter(first) is None
    for _ in range(3):
        assert meter(device.dispatch()) is None
    last = device.dispatch()
    device.now = 4.5  # 3 of the 4 are done
    assert meter(last) is None
    device.now = 5.0
    speed = meter(device.dispatch())
    assert speed is not None
    assert speed["step_seconds"] == 1.0


def test_it_never_waits(device):
    meter = Throughput(every=3, examples=1)
    assert reported(loop(device, meter, 100, wait_every=1000)) == []
    assert device.now == 0.0


def test_nothing_is_reported_of_a_run_that_is_too_short(device):
    meter = Throughput(every=100, examples=1)
    assert reported(loop(device, meter, 100)) == []


def test_a_call_may_be_many_steps(device):
    meter = Throughput(every=10, examples=8)
    speeds = []
    for _ in range(7):
        result = device.dispatch(seconds=5.0)
        speeds.append(meter(result, steps=5))
        result.block_until_ready()
    assert [speed["step_seconds"] for speed in reported(speeds)] == [1.0, 1.0]
    assert reported(speeds)[0]["examples_per_second"] == 8.0


@pytest.mark.parametrize("wait_every", [1, 1000])
def test_a_pause_is_left_out_and_the_steps_before_it_are_not(device, wait_every):
    meter = Throughput(every=10, examples=1)
    speeds = []
    for _ in range(5):
        speeds += loop(device, meter, 10, wait_every=wait_every)
        with meter.pause():
            device.now += 100.0
    found = [speed["step_seconds"] for speed in reported(speeds)]
    assert len(found) >= 3
    assert found == pytest.approx([1.0] * len(found))


def test_a_pause_that_fails_is_left_out_too(device):
    meter = Throughput(every=2, examples=1)
    list(loop(device, meter, 1))
    with meter.pause():  # before the clock starts
        device.now += 7.0
    list(loop(device, meter, 1))
    with pytest.raises(KeyError), meter.pause():
        device.now += 7.0
        raise KeyError
    speed = reported(loop(device, meter, 2))[0]
    assert speed["step_seconds"] == 1.0


def test_a_pause_before_the_first_step_is_nothing(device):
    meter = Throughput(every=1, examples=1)
    with meter.pause():
        device.now += 7.0
    assert len(reported(loop(device, meter, 4))) == 2


def test_wrong_numbers_raise():
    with pytest.raises(ValueError, match="Throughput: every must be an integer >= 1"):
        Throughput(every=0, examples=1)
    with pytest.raises(ValueError, match="Throughput: examples must be an integer"):
        Throughput(every=1, examples=1.5)
    for name in ("tokens", "flops", "peak"):
        with pytest.raises(ValueError, match=f"Throughput: {name} must be > 0, got 0"):
            Throughput(every=1, examples=1, **{name: 0})
    meter = Throughput(every=1, examples=1)
    with pytest.raises(ValueError, match="Throughput: steps must be an integer >= 1"):
        meter(jnp.zeros(()), steps=0)
    with pytest.raises(ValueError, match=r"until must be an array.*float"):
        meter(0.5)


def test_a_real_loop():
    @jax.jit
    def step(x):
        x = jnp.tanh(x @ x)
        return x, x.sum()

    meter, x, speeds = Throughput(every=5, examples=32), jnp.ones((32, 32)), []
    for _ in range(30):
        x, loss = step(x)
        speeds.append(meter(loss))
        float(loss)  # else all could be dispatched before the first is done
    assert reported(speeds)
    for speed in reported(speeds):
        assert speed["step_seconds"] > 0
        assert speed["examples_per_second"] == pytest.approx(32 / speed["step_seconds"])


@pytest.mark.parametrize(
    ("kind", "cores", "teraflops"),
    [
        ("TPU v3", 1, 61.5),
        ("TPU v4", 1, 137.5),
        ("TPU v4", 2, 275),
        ("TPU v5 lite", 1, 197),
        ("TPU v5", 2, 459),
        ("TPU v6 lite", 1, 918),
        ("TPU7x", 1, 1153.5),
    ],
)
def test_peak_flops_of_a_tpu_are_those_of_its_cores(kind, cores, teraflops):
    device = SimpleNamespace(platform="tpu", device_kind=kind, num_cores=cores)
    assert train.peak_flops(device) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),  # half of what is stated with sparsity
        ("NVIDIA H100 PCIe", 756),
    ],
)
def test_peak_flops_of_a_gpu_are_those_of_its_kind(kind, teraflops):
    device = SimpleNamespace(platform="gpu", device_kind=kind)
    assert train.peak_flops(device) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40", "NVIDIA H100 80GB HBM3 MIG 1g"])
def test_no_peak_is_guessed(kind):
    device = SimpleNamespace(platform="gpu", device_kind=kind)
    assert train.peak_flops(device) is None


def test_peak_flops_are_those_of_the_first_device():
    assert train.peak_flops() == train.peak_flops(jax.devices()[0])

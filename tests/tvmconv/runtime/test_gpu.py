"""Networks on a real GPU: right, repeatable, and fed where the data lies."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvmconv
from benchmarks.zoo import zoo
from tests.support.models import Graph, random_feed, residual_net
from tvmconv.errors import FeedError
from tvmconv.passes.plan.chooser import LayoutName

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layout", [None, "packed"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_residual_net(batch: int, layout: LayoutName | None) -> None:
    model, feeds = residual_net("batch"), random_feed((batch, 3, 12, 12))
    exe = tvmconv.build(model, batch=batch, layout=layout)
    report = tvmconv.compare(model, exe, feeds)
    assert report.passed(2e-3), str(report)
    # The second run replays the captured CUDA graph.
    assert np.array_equal(exe.run(feeds)["output"], exe.run(feeds)["output"])
    other = random_feed((batch, 3, 12, 12), seed=9)
    assert tvmconv.compare(model, exe, other).passed(2e-3)


def test_grouped_depthwise_and_generic_operators() -> None:
    g = Graph([2, 16, 11, 9])
    x = g.op("Relu", g.conv("input", 16, 16, group=16))
    x = g.conv(x, 16, 32, group=4, strides=[2, 1])
    y = g.op("Concat", x, g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), axis=1)
    z = g.op("Mul", y, g.op("Sigmoid", g.op("GlobalAveragePool", y)))
    model = g.model(g.op("Softmax", g.op("Flatten", g.conv(z, 64, 8, 1)), axis=1))
    exe = tvmconv.build(model)
    report = tvmconv.compare(model, exe, random_feed((2, 16, 11, 9)))
    assert report.passed(5e-3), str(report)


def pictures(name: str, batch: int) -> dict[str, np.ndarray]:
    return zoo.feeds(name, batch, zoo.drawings)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_zoo(name: str, batch: int) -> None:
    model = zoo.load(name)
    exe = tvmconv.build(model, batch=batch)
    report = tvmconv.compare(model, exe, pictures(name, batch))
    assert report.passed(5e-3), str(report)


def test_torch_tensors_stay_on_the_gpu() -> None:
    torch = pytest.importorskip("torch")
    model, feeds = residual_net(2), random_feed((2, 3, 12, 12))
    exe = tvmconv.build(model)
    on_gpu = torch.from_numpy(feeds["input"]).cuda()
    (tensor,) = exe.transfer_in({"input": on_gpu})
    assert torch.from_dlpack(tensor).data_ptr() == on_gpu.data_ptr()
    result = exe(on_gpu)
    assert isinstance(result, torch.Tensor)
    assert result.is_cuda
    assert np.array_equal(result.cpu().numpy(), exe.run(feeds)["output"])


@pytest.mark.parametrize("n", [1, 3, 8, 9, 40])
def test_buckets(n: int) -> None:
    """Fed from the host, from a tensor on the GPU, and from one that begins inside another."""
    torch = pytest.importorskip("torch")
    exe = tvmconv.build(residual_net("batch"), batch=[1, 8, 32])
    alone = tvmconv.build(residual_net("batch"), batch=1)
    feed = random_feed((41, 3, 12, 12))["input"]
    expected = np.concatenate([alone(feed[i : i + 1]) for i in range(1, 1 + n)])
    on_gpu = torch.from_numpy(feed).cuda()[1 : 1 + n]
    for _ in range(2):  # the second run replays the captured CUDA graph
        found = exe(feed[1 : 1 + n])
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
        result = exe(on_gpu)
        assert result.is_cuda
        assert np.array_equal(result.cpu().numpy(), found)


def test_buckets_share_weights_on_the_gpu() -> None:
    exe = tvmconv.build(zoo.load("mobilenet_v2"), batch=[1, 8])
    for batch in exe.batches:
        exe(np.zeros((batch, 3, 224, 224), "f"))
    # Twice only those of which the buckets' families differ.
    assert exe.report.weight_bytes <= exe.report.stored_weight_bytes < 2 * exe.report.weight_bytes
    assert len(exe._loaded.weights) == len(exe.weights)
    found = tvmconv.bench(exe, min_seconds=0.1)
    assert [one.batch for one in (*found.smaller, found)] == [1, 8]
    assert tvmconv.compare(zoo.load("mobilenet_v2"), exe, pictures("mobilenet_v2", 3)).passed(5e-3)


def test_results_outlive_the_next_run() -> None:
    """A captured graph writes where it always wrote; what was given out must not be there."""
    torch = pytest.importorskip("torch")
    exe = tvmconv.build(residual_net(1))
    first, second = (
        torch.from_numpy(random_feed((1, 3, 12, 12), seed)["input"]).cuda() for seed in (1, 2)
    )
    kept = exe(first)
    copy = kept.clone()
    assert not torch.equal(exe(second), copy)
    assert torch.equal(kept, copy)


# --- in place, and in streams ---------------------------------------------------------------
FORMS = [{}, {"io_dtype": "float16", "io_layout": "NHWC"}]


def of_form(exe: tvmconv.Executable, seed: int) -> dict[str, np.ndarray]:
    (spec,) = exe.inputs
    return random_feed(spec.shape, seed, spec.dtype)


@pytest.mark.parametrize("form", FORMS)
def test_a_binding_gives_what_runs_give(form: dict[str, str]) -> None:
    torch = pytest.importorskip("torch")
    exe = tvmconv.build(residual_net(3), **form)
    feeds = [of_form(exe, seed) for seed in range(4)]
    expected = [exe.run(feed)["output"] for feed in feeds]
    binding, other = exe.bind(feeds[0]), exe.bind(feeds[3])
    inside = torch.from_dlpack(binding.inputs["input"])
    result = torch.from_dlpack(binding.outputs["output"])
    given = [torch.from_numpy(feed["input"]).cuda() for feed in feeds]
    found = []
    for i in range(100):  # nothing waits: kernels of one run are launched behind those before
        inside.copy_(given[i % 4])
        binding.run()
        other.run()
        found.append(result.clone())
    for i, one in enumerate(found):
        assert np.array_equal(one.cpu().numpy(), expected[i % 4]), i
    assert np.array_equal(other.outputs["output"].numpy(), expected[3])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        inside.copy_(given[1])
        binding.run(stream.cuda_stream)
        found.append(result.clone())
    stream.synchronize()
    assert np.array_equal(found[-1].cpu().numpy(), expected[1])


def test_a_replay_costs_the_host_little() -> None:
    """The issue's bound is 20 us; on a busy machine only the least is telling."""
    exe = tvmconv.build(zoo.load("mobilenet_v2"), batch=1, **FORMS[1])
    found = tvmconv.bench(exe, min_seconds=0.2)
    assert found.enqueue is not None
    assert found.enqueue.min_ms < 0.02


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [3, [1, 4]])
def test_a_stream_gives_what_runs_give(batch: int | list[int], form: dict[str, str]) -> None:
    exe = tvmconv.build(residual_net("batch"), batch=batch, **form)
    (spec,) = exe.inputs
    counts = [3] * 20 if batch == 3 else [1, 4, 9, 2] * 5
    feeds = [random_feed((n, *spec.shape[1:]), i, spec.dtype) for i, n in enumerate(counts)]
    expected = [exe.run(feed)["output"] for feed in feeds]
    found = [results["output"] for results in exe.map(iter(feeds))]
    assert all(map(np.array_equal, found, expected))
    results = exe.map([feeds[0], {"input": np.zeros(3, "f")}])
    assert np.array_equal(next(results)["output"], expected[0])
    with pytest.raises(FeedError):
        next(results)


def test_threads_may_share_bindings() -> None:
    exe = tvmconv.build(residual_net(1))
    feeds = [random_feed((1, 3, 12, 12), seed) for seed in range(4)]
    expected = [exe.run(feed)["output"] for feed in feeds]

    def bound(i: int) -> bool:
        binding = exe.bind(feeds[i])
        for _ in range(20):
            binding.run()
        return np.array_equal(binding.outputs["output"].numpy(), expected[i])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(bound, range(4)))


def test_saved_and_loaded(tmp_path: Path) -> None:
    exe, feeds = tvmconv.build(residual_net(1)), random_feed((1, 3, 12, 12))
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    assert np.array_equal(loaded.run(feeds)["output"], exe.run(feeds)["output"])


def test_emulation_and_hardware_agree() -> None:
    """The same network both ways differs only in the order of sums, rounded to fp16 by layer."""
    model: onnx.ModelProto = residual_net(1, channels=32, size=32)
    feeds = random_feed((1, 3, 32, 32))
    emulated, real = (
        tvmconv.build(model, target=target).run(feeds)["output"] for target in ("llvm", "cuda")
    )
    assert np.linalg.norm(emulated - real) <= 1e-3 * np.linalg.norm(emulated)


def test_a_binding_outlives_its_network() -> None:
    """Its graph needs the network's kernels and weights, whatever memory others take since."""
    model, feeds = residual_net(2), random_feed((2, 3, 12, 12))
    exe = tvmconv.build(model)
    expected = exe.run(feeds)["output"]
    binding = exe.bind(feeds)
    del exe
    gc.collect()
    others = [tvmconv.build(residual_net(2, channels)).bind() for channels in (16, 32)]
    binding.run()
    assert np.array_equal(binding.outputs["output"].numpy(), expected)
    assert len(others) == 2


@pytest.mark.parametrize("signed", [False, True], ids=["uint8", "int8"])
def test_a_network_in_int8(signed: bool) -> None:
    """Single steps of difference add up from layer to layer: the bound is that of `compare`."""
    model = residual_net(2, 32, 32)
    feeds = [random_feed((2, 3, 32, 32), seed) for seed in range(3)]
    proto = tvmconv.quantize(model, feeds, method="minmax", unsigned=not signed).proto
    exe = tvmconv.build(proto)
    assert exe.report.in_int8
    report = tvmconv.compare(proto, exe, feeds[0])
    assert report.passed(), str(report)

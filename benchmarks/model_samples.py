"""Measures many configurations, to fit and to check the cost model.

    python -m benchmarks.model_samples build FOLDER       compiles; needs TVM's compiler, no GPU
    python -m benchmarks.model_samples measure FOLDER     checks and times; needs a GPU and torch

For each workload of `FIT` and `HELD_OUT` and each family of `FAMILIES` that matches: the default
configuration, those that the model ranks first, and others of its space at random. Each kernel is
compared with torch's convolution in fp32, then timed in a CUDA graph, as in `benchmarks.convs`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.launches import LAUNCHES, captured
from schedules.conv.gemm import Tile, pack_weight
from schedules.conv.workload import ConvWorkload, Epilogue

#: Batch, H and W, C, K, R and S, stride; K is 0 for depthwise.
Shape = tuple[int, int, int, int, int, int]

#: The constants of `schedules.machine.model` were fitted to these.
FIT: dict[str, Shape] = {
    "resnet18.stem, 1": (1, 224, 3, 64, 7, 2),
    "resnet18.stem, 32": (32, 224, 3, 64, 7, 2),
    "resnet18.layer1, 1": (1, 56, 64, 64, 3, 1),
    "resnet18.layer1, 128": (128, 56, 64, 64, 3, 1),
    "resnet18.layer2, 8": (8, 28, 128, 128, 3, 1),
    "resnet18.layer3, 32": (32, 14, 256, 256, 3, 1),
    "resnet18.layer4, 1": (1, 7, 512, 512, 3, 1),
    "resnet18.layer2.down, 128": (128, 56, 64, 128, 3, 2),
    "resnet50.layer1.expand, 128": (128, 56, 64, 256, 1, 1),
    "resnet50.layer3.reduce, 8": (8, 14, 1024, 256, 1, 1),
    "depthwise 112x32, 1": (1, 112, 32, 0, 3, 1),
    "depthwise 28x192, 128": (128, 28, 192, 0, 3, 1),
    "depthwise 56x144/2, 16": (16, 56, 144, 0, 3, 2),
    "depthwise 14x672 5x5, 32": (32, 14, 672, 0, 5, 1),
}
#: They were not fitted to these.
HELD_OUT: dict[str, Shape] = {
    "resnet50.layer1.reduce, 32": (32, 56, 256, 64, 1, 1),
    "resnet50.layer2.down, 16": (16, 56, 128, 128, 3, 2),
    "resnet50.layer4.expand, 1": (1, 7, 512, 2048, 1, 1),
    "resnet50.layer4.reduce, 128": (128, 7, 2048, 512, 1, 1),
    "resnet50.shortcut4, 32": (32, 14, 1024, 2048, 1, 2),
    "vgg.conv3, 8": (8, 56, 128, 256, 3, 1),
    "vgg.conv5, 1": (1, 14, 512, 512, 3, 1),
    "mobilenet.expand, 128": (128, 28, 32, 192, 1, 1),
    "mobilenet.project, 1": (1, 14, 576, 96, 1, 1),
    "densenet.growth, 16": (16, 28, 128, 32, 3, 1),
    "inception.5x5, 8": (8, 28, 48, 64, 5, 1),
    "inception.reduce, 32": (32, 28, 192, 96, 1, 1),
    "yolo.stride, 1": (1, 320, 32, 64, 3, 2),
    "yolo.bottleneck, 4": (4, 40, 80, 80, 3, 1),
    "mobilenet.stem, 32": (32, 224, 3, 32, 3, 2),
    "classifier, 32": (32, 1, 1280, 1000, 1, 1),
    "depthwise 56x96, 16": (16, 56, 96, 0, 3, 1),
    "depthwise 112x48/2, 8": (8, 112, 48, 0, 3, 2),
    "depthwise 28x120 5x5, 32": (32, 28, 120, 0, 5, 1),
    "depthwise 14x480, 1": (1, 14, 480, 0, 3, 1),
    "depthwise 7x576 5x5, 128": (128, 7, 576, 0, 5, 1),
}
#: Families whose weights can be packed without TVM's compiler, which the GPU machine lacks.
FAMILIES = ("wmma_nhwc", "depthwise")
#: Configurations of each: those that the model ranks first, and random ones.
RANKED, AT_RANDOM = 8, 9
#: Largest relative l2 error that is timed; replays of a graph.
BOUND, REPLAYS = 1e-3, 7

app = typer.Typer(help=__doc__, add_completion=False)


def workload(shape: Shape) -> ConvWorkload:
    """Returns the convolution, with a bias, and with the input's pixels if the stride is 1."""
    n, side, c, k, r, stride = shape
    groups = 1 if k else c
    steps, pads = (stride, stride), (r // 2,) * 4
    return ConvWorkload(
        n, side, side, c, k or c, r, r, steps, pads, groups=groups, epilogue=Epilogue(bias=True)
    )


# ---------------------------------------------------------------- with TVM's compiler


@app.command()
def build(
    folder: Path,
    arch: Annotated[str, typer.Option(help="such as sm_90a")] = "sm_90a",
) -> None:
    """Compile one library for each workload and family, and an index of them."""
    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    for name, shape in {**FIT, **HELD_OUT}.items():
        for entry in _compiled(folder, f"w{len(index)}", workload(shape), arch):
            index.append({"name": name, "held_out": name in HELD_OUT, **entry})
            (folder / "index.json").write_text(json.dumps(index))
            print(f"{name}, {entry['family']}: {len(entry['rows'])} configurations")


def _compiled(folder: Path, name: str, w: ConvWorkload, arch: str) -> list[dict[str, Any]]:
    """Compiles one workload by each family. Imports TVM's compiler here, as measuring has none."""
    tvm = importlib.import_module("tvm")
    registry = importlib.import_module("schedules.registry")
    choose = importlib.import_module("schedules.choose")
    toolchain = importlib.import_module("tvmconv.compiler.toolchain")
    cubins = importlib.import_module("tvmconv.compiler.cubins")
    lowering = importlib.import_module("schedules.lowering")
    pipeline = importlib.import_module("tvmconv.passes.pipeline")
    toolchain.prepare_cuda(arch)
    hardware, entries = toolchain.cuda_arch(arch), []
    for family in registry.FAMILIES:
        match = family.match(w, hardware)
        if family.name not in FAMILIES or not hasattr(match, "config"):
            continue
        rows: list[dict[str, Any]] = []
        functions = {}
        for config in sampled(choose, w, family, match.config, hardware):
            symbol = f"k{len(rows)}"
            function = family.schedule(w, config, hardware)
            functions[symbol] = function.with_attr("global_symbol", symbol)
            tile = dataclasses.asdict(config.tile) if family.tensorized else None
            fields = dataclasses.asdict(config)
            default = config == match.config
            rows.append({"symbol": symbol, "config": fields, "tile": tile, "default": default})
        target = pipeline.tvm_target("cuda", arch)
        with target, tvm.transform.PassContext(opt_level=3, config=lowering.LOWERING):
            library = tvm.compile(tvm.IRModule(functions), target=target)
        path = folder / f"{name}{family.name}.so"
        library.export_library(str(path))
        cubins.require_cubin(path, arch)
        entry = {"family": family.name, "workload": w.to_json(), "library": path.name}
        entries.append({**entry, "rows": rows})
    return entries


def sampled(choose: Any, w: ConvWorkload, family: Any, default: Any, hardware: Any) -> list[Any]:
    """Returns the default, then `RANKED` by the model, then `AT_RANDOM`, without repeats."""
    space = list(dict.fromkeys([default, *family.space(w, hardware)]))
    ranked = sorted(space, key=lambda one: choose.predict(w, one, hardware).us)
    others = [one for one in ranked[RANKED:] if one != default]
    drawn = random.Random(0).sample(others, min(AT_RANDOM, len(others)))
    return list(dict.fromkeys([default, *ranked[:RANKED], *drawn]))


# ---------------------------------------------------------------- with a GPU


@app.command()
def measure(
    folder: Path,
    out: Annotated[Path, typer.Option(help="JSON to write")] = Path("model-samples.json"),
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Check and time all that `build` compiled. Exits with an error if a kernel is wrong."""
    torch = importlib.import_module("torch")
    torch.backends.cudnn.allow_tf32 = False
    samples, wrong = [], 0
    for entry in json.loads((folder / "index.json").read_text()):
        times = _times(torch, folder, entry)
        wrong += sum(us is None for us in times)
        rows = [
            {"config": row["config"], "default": row["default"], "us": round(us, 3)}
            for row, us in zip(entry["rows"], times, strict=True)
            if us is not None
        ]
        kept = {key: entry[key] for key in ("name", "held_out", "family", "workload")}
        samples.append({**kept, "rows": rows})
        first = next(row["us"] for row in rows if row["default"])
        print(f"{entry['name']:28s} {first:8.2f} {min(r['us'] for r in rows):8.2f} us", flush=True)
    card = {"gpu": torch.cuda.get_device_name(), "commit": commit}
    lines = ",\n".join(json.dumps(sample) for sample in samples)
    out.write_text(f'{{"machine": {json.dumps(card)}, "samples": [\n{lines}\n]}}\n')
    if wrong:
        raise SystemExit(f"{wrong} kernels are wrong")


def _times(torch: Any, folder: Path, entry: dict[str, Any]) -> list[float | None]:
    """Returns the microseconds of each row; None, with a message, for a wrong result."""
    tvm = importlib.import_module("tvm")
    w = ConvWorkload.from_json(entry["workload"])
    torch.manual_seed(0)
    dtype = getattr(torch, w.precision.x)
    x = torch.randn(w.n, w.h, w.w, w.c, device="cuda").to(dtype)
    weight = torch.randn(w.k, w.group_c, w.r, w.s, device="cuda") / (w.r * w.group_c**0.5)
    weight = weight.to(dtype)
    bias = torch.randn(w.k, device="cuda")
    expected = _expected(torch, w, x, weight, bias)
    library = tvm.runtime.load_module(str(folder / entry["library"]))
    times: list[float | None] = []
    for row in entry["rows"]:
        packed = torch.from_numpy(_packed(w, row["tile"], weight.cpu().numpy())).cuda()
        # Filled with NaN, so that elements that are not written show.
        y = torch.full(w.out_shape, float("nan"), device="cuda", dtype=dtype)
        arguments = [tvm.runtime.from_dlpack(one) for one in (x, packed, bias, y)]
        function = library[row["symbol"]]
        function(*arguments)
        torch.cuda.synchronize()
        error = float((y.float() - expected).norm() / expected.norm())
        if not error < BOUND:
            print(f"WRONG: {entry['name']}, {row['config']}: error {error:.1e}")
            times.append(None)
            continue
        times.append(_graph_us(torch, partial(function, *arguments)))
    return times


def _expected(torch: Any, w: ConvWorkload, x: Any, weight: Any, bias: Any) -> Any:
    """Returns (N, P, Q, K) fp32, computed 16 images at a time to save memory."""
    parts = [
        torch.nn.functional.conv2d(
            part.float().permute(0, 3, 1, 2), weight.float(), bias, stride=w.stride,
            padding=w.padding[:2], groups=w.groups,
        ).permute(0, 2, 3, 1)
        for part in x.split(16)
    ]  # fmt: skip
    return torch.cat(parts)


def _packed(w: ConvWorkload, tile: dict[str, int] | None, weight: Any) -> Any:
    """Packs as the families' `pack`, which need TVM's compiler."""
    if tile is None:
        return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0), w.precision.x)
    return pack_weight(w, Tile(**tile), weight)


def _graph_us(torch: Any, call: Callable[[], object]) -> float:
    """Returns the median time of one launch, in microseconds."""
    graph = captured(call)
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / LAUNCHES)
    return statistics.median(times)


if __name__ == "__main__":
    app()

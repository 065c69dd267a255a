"""The accuracy that int8 costs: networks of the zoo, quantised by us and by onnxruntime.

    python -m benchmarks.accuracy                                    # all, some 15 minutes
    python -m benchmarks.accuracy --models rapidocr_cls -o one.json

Each network is quantised three times on the same pictures: by `tvmconv.quantize`; by it with
``max_error`` at half of the error that this gave; and by onnxruntime's ``quantize_static``, its
activations in uint8 with zero points and weights per channel, ranges by minimum and maximum. All
are of the same float file, batch norms folded. Then each is compared with the float network on
other pictures: the relative l2 error of its outputs, and where it answers with classes, how often
the first is the same. onnxruntime computes all of them, quantised tensors as ONNX defines them; one
network is built by us, too.

Pictures of ImageNet's networks are crops of twenty photos, of ten to quantise with and ten to test.
Of networks of another domain there are few: tests are other drawings, or other crops of the same
page or face. The table is also written as Markdown, for docs/quantisation.md.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import tvmconv
from benchmarks import machine
from benchmarks.zoo import zoo
from tvmconv.cli.inputs import run_or_tell, step, tell
from tvmconv.errors import DownloadError
from tvmconv.quantization.accuracy import Errors, Runner
from tvmconv.quantization.network import prepare
from tvmconv.reports.render.tables import table

#: By name in the zoo: its title, and whether its output's last axis is classes.
NETWORKS = {
    "efficientnet_lite0": ("EfficientNet-Lite0", True),
    "opennsfw": ("half-width ResNet-50", True),
    "table_cls": ("MobileNetV3-Large", True),
    "nudenet_320n": ("YOLOv8n", False),
    "rapidocr_det": ("PP-OCRv4, detector", False),
    "rapidocr_rec": ("PP-OCRv4, recogniser", True),
    "rapidocr_cls": ("PP-OCR, classifier", True),
}
#: The network that is also built by us.
BUILT = "efficientnet_lite0"
Feed = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Accuracy:
    """Differences of a quantised network from the float one, over all test pictures."""

    #: Relative l2 error of the outputs, the largest of several.
    relative_l2: float
    #: Share of equal first classes; None where there are none.
    first_class: float | None
    #: Layers in 8 bits, of all; None where that is not known.
    in_int8: int | None = None
    layers: int | None = None


@dataclass(frozen=True)
class Result:
    """One network."""

    name: str
    title: str
    calibrated: int
    tested: int
    ours: Accuracy
    #: With layers put back until the error is halved on the pictures that it was calibrated on.
    halved: Accuracy
    max_error: float
    onnxruntime: Accuracy
    #: Ours as this project's own build for llvm computes it.
    built: Accuracy | None
    seconds: float


def measure(name: str, calibrated: int, tested: int, build: bool) -> Result:
    """Quantises and compares one network. Raises `DownloadError` if it or pictures can't be had."""
    start = perf_counter()
    title, classes = NETWORKS[name]
    model = zoo.load(name)
    feeds, others = zoo.apart(name, calibrated, tested)
    floats, _ = prepare(model)
    given = Runner(floats.proto)

    def against(run: Run, *layers: int) -> Accuracy:
        return compared(given, run, others, classes, *layers)

    with step(f"quantising {name}"):
        first = tvmconv.quantize(model, feeds)
    bound = first.report.relative_l2 / 2
    with step(f"quantising {name} with max_error {bound:.2g}"):
        second = tvmconv.quantize(model, feeds, max_error=bound)
    with step(f"quantising {name} by onnxruntime"):
        theirs = by_onnxruntime(floats.proto, feeds)
    with step(f"comparing {name}"):
        return Result(
            name=name,
            title=title,
            calibrated=calibrated,
            tested=tested,
            ours=against(Runner(first.proto), *_layers(first)),
            halved=against(Runner(second.proto), *_layers(second)),
            max_error=bound,
            onnxruntime=against(Runner(theirs)),
            built=against(tvmconv.build(first.proto, "llvm", batch=1).run) if build else None,
            seconds=perf_counter() - start,
        )


def _layers(found: tvmconv.Quantized) -> tuple[int, int]:
    return len(found.report.quantized), len(found.report.layers)


def compared(
    reference: Run,
    run: Run,
    feeds: Iterable[Feed],
    classes: bool,
    in_int8: int | None = None,
    layers: int | None = None,
) -> Accuracy:
    """Returns how far a network is from the reference over all feeds."""
    errors, same = Errors(), []
    for feed in feeds:
        wanted, found = reference(feed), run(feed)
        errors.add(wanted, {name: np.asarray(array) for name, array in found.items()})
        if classes:
            (name,) = wanted
            equal = wanted[name].argmax(-1) == np.asarray(found[name]).argmax(-1)
            same.append(float(equal.mean()))
    share = float(np.mean(same)) if same else None
    return Accuracy(errors.largest(), share, in_int8, layers)


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._left, None)
        return None if feed is None else dict(feed)


def by_onnxruntime(model: onnx.ModelProto, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """Returns the model quantised by onnxruntime: uint8 with zero points, weights per channel."""
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, path)
        # It advises to fold batch norms, which was done.
        logging.getLogger().setLevel(logging.ERROR)
        kind = QuantType.QUInt8
        quantize_static(path, out, _Reader(feeds), activation_type=kind, per_channel=True)
        return onnx.load(out)


HEADER = ("network", "in int8", "error", "onnxruntime's", "first class", "onnxruntime's", "halved")


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """Returns the header and a row for each network."""
    return [HEADER, *map(_row, results)]


def _row(one: Result) -> tuple[str, ...]:
    def share(accuracy: Accuracy) -> str:
        return "" if accuracy.first_class is None else f"{accuracy.first_class:.1%}"

    return (
        one.title,
        f"{one.ours.in_int8} of {one.ours.layers}",
        f"{one.ours.relative_l2:.2%}",
        f"{one.onnxruntime.relative_l2:.2%}",
        share(one.ours),
        share(one.onnxruntime),
        f"{one.halved.relative_l2:.2%}, {one.halved.in_int8} in int8",
    )


def markdown(results: Iterable[Result]) -> str:
    """Returns the table as docs/quantisation.md has it."""
    header, *others = rows(results)
    lines = [header, tuple("---" for _ in header), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read(path: Path) -> list[Result]:
    """Returns the results that `main` wrote."""
    found = []
    for fields in json.loads(path.read_text())["networks"]:
        parts = {
            name: fields[name] and Accuracy(**fields[name])
            for name in ("ours", "halved", "onnxruntime", "built")
        }
        found.append(Result(**{**fields, **parts}))
    return found


def main(
    models: Annotated[str, typer.Option(help="names, with commas")] = ",".join(NETWORKS),
    calibrated: Annotated[int, typer.Option(min=1, help="pictures to quantise with")] = 16,
    tested: Annotated[int, typer.Option(min=1, help="pictures to compare on")] = 40,
    built: Annotated[str, typer.Option(help="the network that is built for llvm, too")] = BUILT,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write")] = Path(
        "build/reports/accuracy.json"
    ),
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Quantise networks of the zoo, and compare them with the float ones on other pictures."""
    output.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    missing: dict[str, str] = {}
    for name in models.split(","):
        try:
            results.append(measure(name, calibrated, tested, name == built))
        except DownloadError as error:
            missing[name] = str(error)
            tell(f"{name} is left out: {error}")
        document = {
            "machine": machine.facts(commit),
            "networks": [asdict(one) for one in results],
            "missing": missing,
        }
        # Now, so that a run that is stopped keeps its results.
        output.write_text(json.dumps(document, indent=1) + "\n")
        if results:
            tell(table(rows(results), right=range(1, len(HEADER))))
    print(markdown(results))
    tell(f"wrote {output}")


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))

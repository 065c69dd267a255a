"""tvmconv: convolution networks from ONNX to tensor cores, through TVM.

exe = tvmconv.build("model.onnx", target="cuda")
outputs = exe.run({"input": array})
print(exe.report)
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tvmconv.version import TVM_PAIR, __version__


def _check_tvm() -> None:
    found: dict[str, str] = {}
    for package in TVM_PAIR:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # Unpacked on a path of its own, as on a machine with no package index: no metadata
            # to check, and the import of tvm below says if it is not there at all.
            continue
    wrong = {name: version for name, version in found.items() if version != TVM_PAIR[name]}
    if wrong:
        has = " and ".join(f"{name} {version}" for name, version in wrong.items())
        pins = " ".join(f"'{name}=={version}'" for name, version in TVM_PAIR.items())
        raise ImportError(
            f"tvmconv does not work with {has}\n"
            "  Note: TVM and its FFI fit only in pairs; the wrong one ends the process with a "
            "segmentation fault at the first tensorized convolution.\n"
            f"  Hint: pip install {pins}"
        )


_check_tvm()
# Sets the environment variables that TVM reads as it is loaded.
from tvmconv import knobs  # noqa: E402

if TYPE_CHECKING:
    from tvmconv.compiler.build import build, inspect
    from tvmconv.images import Preprocessing, read_images
    from tvmconv.quantization.quantize import Quantized, quantize
    from tvmconv.records.store import list_records, merge_records
    from tvmconv.reports.collect.comparison import compare
    from tvmconv.reports.collect.latency import bench
    from tvmconv.reports.data.build import BuildReport
    from tvmconv.reports.data.capability import CapabilityReport
    from tvmconv.reports.data.comparison import CompareReport
    from tvmconv.reports.data.latency import LatencyReport
    from tvmconv.reports.data.quantization import QuantizationReport
    from tvmconv.reports.data.simulation import SimulationReport
    from tvmconv.reports.data.tuning import TuningReport
    from tvmconv.runtime.binding import Binding
    from tvmconv.runtime.executable import Executable
    from tvmconv.runtime.loading import load
    from tvmconv.simulation.simulate import simulate
    from tvmconv.simulation.tracing import Trace, trace_example, trace_layer
    from tvmconv.tuning.layers import layer_choices, set_record
    from tvmconv.tuning.stopwatch import Tracker
    from tvmconv.tuning.tune import tune

#: Public names and their homes. Imported at first use, because `load` has to work where TVM's
#: compiler is not installed, and `compare` alone needs onnxruntime.
_HOMES = {
    "Binding": "runtime.binding",
    "BuildReport": "reports.data.build",
    "CapabilityReport": "reports.data.capability",
    "CompareReport": "reports.data.comparison",
    "Executable": "runtime.executable",
    "LatencyReport": "reports.data.latency",
    "Preprocessing": "images",
    "QuantizationReport": "reports.data.quantization",
    "Quantized": "quantization.quantize",
    "SimulationReport": "reports.data.simulation",
    "Trace": "simulation.tracing",
    "Tracker": "tuning.stopwatch",
    "TuningReport": "reports.data.tuning",
    "bench": "reports.collect.latency",
    "build": "compiler.build",
    "compare": "reports.collect.comparison",
    "inspect": "compiler.build",
    "layer_choices": "tuning.layers",
    "list_records": "records.store",
    "load": "runtime.loading",
    "merge_records": "records.store",
    "quantize": "quantization.quantize",
    "read_images": "images",
    "set_record": "tuning.layers",
    "simulate": "simulation.simulate",
    "trace_example": "simulation.tracing",
    "trace_layer": "simulation.tracing",
    "tune": "tuning.tune",
}

__all__ = [
    "Binding",
    "BuildReport",
    "CapabilityReport",
    "CompareReport",
    "Executable",
    "LatencyReport",
    "Preprocessing",
    "QuantizationReport",
    "Quantized",
    "SimulationReport",
    "Trace",
    "Tracker",
    "TuningReport",
    "__version__",
    "bench",
    "build",
    "compare",
    "inspect",
    "knobs",
    "layer_choices",
    "list_records",
    "load",
    "merge_records",
    "quantize",
    "read_images",
    "set_record",
    "simulate",
    "trace_example",
    "trace_layer",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tvmconv' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tvmconv.{_HOMES[name]}"), name)

"""A network that can be run: compiled code, weights, and the report of how they were made."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine

import tvmconv
from tvmconv import artifact, toolchain
from tvmconv.errors import ArtifactError, FeedError, TargetError, first_line
from tvmconv.report import BuildReport


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


#: What TVM wants of the memory it is lent, in bytes.
ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Executable:
    """Made by `tvmconv.build` and `tvmconv.load`. Compiles nothing.

    May be used by several threads; they run one after another.
    """

    target: str
    arch: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    report: BuildReport
    #: A shared library: the kernels and the virtual machine's byte code.
    code: bytes
    #: What the network takes after its inputs, in order, packed as the kernels read them.
    weights: tuple[NDArray[Any], ...]
    #: Vector extensions of a CPU that the code relies on, as `cpu_features` spells them.
    features: tuple[str, ...] = ()
    #: TVM's virtual machine is not safe for threads.
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __repr__(self) -> str:
        ins = ", ".join(map(str, self.inputs))
        outs = ", ".join(map(str, self.outputs))
        return f"Executable({self.target} {self.arch}: {ins} -> {outs})"

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the network once and waits for it.

        feeds: for every input an array of its shape and dtype, NumPy's or any that speaks
        DLPack; one that lies on the device is not copied. Gives every output by name: NumPy
        arrays for NumPy arrays, torch tensors where a torch tensor came in, else TVM tensors,
        on the device the network ran on. Raises `FeedError`, and `TargetError` where there is
        no such device.
        """
        torch = sys.modules.get("torch")
        with self._lock:
            tensors = self.transfer_in(feeds)
            of_torch = [x for x in feeds.values() if torch and isinstance(x, torch.Tensor)]
            if torch and any(x.is_cuda for x in of_torch):
                # What still writes the feeds was started on a stream that TVM does not wait for.
                torch.cuda.current_stream().synchronize()
            results = self.enqueue(tensors)
            if all(isinstance(feed, np.ndarray) for feed in feeds.values()):
                return self.transfer_out(results)
            self.device().sync()
        if torch and of_torch:
            results = [torch.from_dlpack(result) for result in results]
        return {spec.name: one for spec, one in zip(self.outputs, results, strict=True)}

    def __call__(self, array: Any) -> Any:
        """`run` for a network of one input and one output. Raises `FeedError` for others."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise FeedError(
                f"the network has {len(self.inputs)} inputs and {len(self.outputs)} outputs",
                hint="name them: exe.run({...})",
            )
        return self.run({self.inputs[0].name: array})[self.outputs[0].name]

    def save(self, path: str | Path) -> None:
        """Writes one file that `tvmconv.load` reads. Raises `ArtifactError`."""
        manifest = {
            "tvmconv": tvmconv.__version__,
            "target": self.target,
            "arch": self.arch,
            "features": list(self.features),
            "inputs": [asdict(spec) for spec in self.inputs],
            "outputs": [asdict(spec) for spec in self.outputs],
            "report": self.report.to_json(),
        }
        artifact.write(artifact.Artifact(manifest, self.code, self.weights), path)

    # ------------------------------------------------------------ the steps of a run

    def device(self) -> Any:
        """Where the network runs. Raises `TargetError` where there is no such device."""
        return self._device

    @cached_property
    def _device(self) -> Any:
        if self.target == "llvm":
            missing = sorted(set(self.features) - set(cpu_features()))
            if missing:
                raise TargetError(
                    f"a network built for {self.arch} can't be run on this CPU",
                    note=f"its code relies on {', '.join(missing)} and would crash here",
                    hint="build it on this machine, or with an arch that both have",
                )
            return tvm.cpu()
        # Also loads TVM's CUDA runtime, where `import tvm` could not.
        here = toolchain.detect_arch()
        if here is None:
            raise TargetError(
                f"a network built for {self.arch} can't be run here: there is no NVIDIA GPU",
                hint='build it with target="llvm" to run it on the CPU by emulation',
            )
        if not toolchain.runs_on(self.arch, here):
            raise TargetError(
                f"a network built for {self.arch} can't be run on this GPU, which is {here}",
                note="machine code runs on its own generation, from its own revision on",
                hint=f'build it with arch="{here}"',
            )
        return tvm.cuda(0)

    def transfer_in(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The feeds, checked, as tensors on the device, in the network's order."""
        names = [spec.name for spec in self.inputs]
        if not isinstance(feeds, Mapping):
            raise FeedError(
                f"feeds are a mapping of names to arrays, not a {type(feeds).__name__}",
                hint="exe(array) takes the array alone",
            )
        if set(feeds) != set(names):
            raise FeedError(
                f"fed {sorted(feeds)}, the network's inputs are {names}",
                hint="every input by its name, and nothing else",
            )
        return [_tensor(spec, feeds[spec.name], self.device()) for spec in self.inputs]

    def enqueue(self, tensors: list[Any]) -> list[Any]:
        """Starts the network on tensors of the device; on a GPU, returns before it is done."""
        with self._lock:
            machine, weights = self._loaded
            result = machine["main"](*tensors, *weights)
        return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)

    def transfer_out(self, results: list[Any]) -> dict[str, NDArray[Any]]:
        """The results on the host, by name. Waits until they are there."""
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

    @cached_property
    def _loaded(self) -> tuple[VirtualMachine, list[Any]]:
        """The virtual machine and the weights, on the device."""
        device = self.device()
        # The loader knows libraries by path, so each gets one of its own; once loaded, the file
        # is not needed any more.
        with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
            path = Path(folder) / "code.so"
            path.write_bytes(self.code)
            try:
                machine = VirtualMachine(tvm.runtime.load_module(str(path)), device)
            except Exception as error:
                raise ArtifactError(
                    "the network's code can't be loaded",
                    note=first_line(error),
                    hint="build it again",
                ) from error
        return machine, [tvm.runtime.tensor(array, device) for array in self.weights]


def _tensor(spec: TensorSpec, feed: Any, device: Any) -> Any:
    """One feed on the device, without a copy where it is there already."""
    if not isinstance(feed, np.ndarray | tvm.runtime.Tensor) and not hasattr(feed, "__dlpack__"):
        raise FeedError(
            f"input {spec.name!r} got a {type(feed).__name__}",
            hint="give a NumPy array, or a tensor that speaks DLPack",
        )
    shape, dtype = tuple(feed.shape), str(feed.dtype).removeprefix("torch.")
    if shape != spec.shape or dtype != spec.dtype:
        raise FeedError(
            f"input {spec.name!r} got {dtype}{list(shape)}, expected {spec.dtype}"
            f"{list(spec.shape)}",
            hint="build with another batch= or shapes=" if dtype == spec.dtype else "",
        )
    if isinstance(feed, np.ndarray):
        return tvm.runtime.tensor(np.asarray(feed, order="C"), device)
    tensor = feed if isinstance(feed, tvm.runtime.Tensor) else _imported(feed)
    return tensor if tensor.device == device else tensor.copyto(device)


def _imported(feed: Any) -> Any:
    """A tensor over the feed's own memory; over a copy where that is not contiguous or aligned."""
    torch = sys.modules.get("torch")
    if torch and isinstance(feed, torch.Tensor):
        if not feed.is_contiguous() or feed.data_ptr() % ALIGNMENT:
            feed = feed.clone(memory_format=torch.contiguous_format)
        return tvm.runtime.from_dlpack(feed.detach())
    if feed.__dlpack_device__()[0] == 1:  # kDLCPU
        return tvm.runtime.tensor(np.asarray(np.from_dlpack(feed), order="C"))
    return tvm.runtime.from_dlpack(feed)


def load(path: str | Path) -> Executable:
    """The network that `Executable.save` wrote. Compiles nothing; TVM's runtime is enough.

    Raises `ArtifactError` where the file is not one of ours or damaged. Whether this machine can
    run it is seen when it is run.
    """
    stored = artifact.read(path)
    manifest = stored.manifest
    try:
        exe = Executable(
            manifest["target"],
            manifest["arch"],
            tuple(_spec(item) for item in manifest["inputs"]),
            tuple(_spec(item) for item in manifest["outputs"]),
            BuildReport.from_json(manifest["report"]),
            stored.code,
            stored.weights,
            tuple(manifest["features"]),
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} has a damaged manifest", note=repr(error), hint="build the network again"
        ) from error
    if exe.target not in ("cuda", "llvm"):
        raise ArtifactError(f"{path} is for an unknown target {exe.target!r}")
    return exe


def _spec(item: dict[str, Any]) -> TensorSpec:
    return TensorSpec(item["name"], tuple(item["shape"]), item["dtype"])


def cpu_features() -> tuple[str, ...]:
    """This CPU's vector extensions, spelled as `vector_features` does; none but on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return vector_features(flags)


def vector_features(names: Iterable[str]) -> tuple[str, ...]:
    """The vector extensions among Linux's or LLVM's names of CPU features, spelled alike."""
    plain = {name.replace("_", "").replace("-", "").replace(".", "") for name in names}
    return tuple(sorted(name for name in plain if name.startswith(("avx", "fma", "f16c", "amx"))))

"""A network that can be run: compiled code, weights, and the report of how they were made."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine

import tvmconv
import tvmconv.runtime.tensor_map
import tvmconv.simulation.simulator  # kernels call what these two register
from tvmconv.errors import ArtifactError, FeedError, first_line
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.binding import Binding, bind
from tvmconv.runtime.buckets import plan_batches
from tvmconv.runtime.device import find_device
from tvmconv.runtime.feeds import images, join, place, read
from tvmconv.runtime.streaming import stream_batches
from tvmconv.specs import TensorSpec, batch_of


@dataclass(frozen=True, eq=False)
class Entry:
    """The network compiled for one batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: A shared library: the kernels and the virtual machine's byte code.
    code: bytes
    #: What the network takes after its inputs, in order: places in `Executable.weights`.
    weights: tuple[int, ...]

    @property
    def batch(self) -> int:
        return batch_of(self.inputs)


@dataclass
class _Loaded:
    """What lies on the device; an executable and its buckets have one between them."""

    #: TVM's virtual machine is not safe for threads.
    lock: threading.RLock = field(default_factory=threading.RLock)
    machines: dict[Entry, VirtualMachine] = field(default_factory=dict)
    weights: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Executable:
    """Made by `tvmconv.build` and `tvmconv.load`. Compiles nothing.

    May be used by several threads; they run one after another. Built for buckets (a list of
    batches), it has an entry for each; what it says of itself, `inputs`, `outputs` and `report`,
    it says of the largest, and so do the steps of a run. `bucket` gives the others.
    """

    target: str
    arch: str
    #: One for each batch, the smallest first.
    entries: tuple[Entry, ...]
    report: BuildReport
    #: Of all entries, equal ones once, packed as the kernels read them.
    weights: tuple[NDArray[Any], ...]
    #: Vector extensions of a CPU that the code relies on, as `cpu_features` spells them.
    features: tuple[str, ...] = ()
    #: Whether `run` takes any batch and not the one of `inputs` alone.
    any_batch: bool = False
    _loaded: _Loaded = field(default_factory=_Loaded, repr=False)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.entries[-1].inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.entries[-1].outputs

    @property
    def code(self) -> bytes:
        return self.entries[-1].code

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches it is compiled for, ascending."""
        return tuple(entry.batch for entry in self.entries)

    def __repr__(self) -> str:
        ins = ", ".join(map(str, self.inputs))
        outs = ", ".join(map(str, self.outputs))
        buckets = f", buckets {', '.join(map(str, self.batches))}" if self.any_batch else ""
        return f"Executable({self.target} {self.arch}{buckets}: {ins} -> {outs})"

    def bucket(self, batch: int) -> Executable:
        """The network at one of its `batches` alone, with the same weights on the device.

        Raises `FeedError` where it has no such bucket.
        """
        if batch not in self.batches:
            raise FeedError(
                f"the network has no bucket of {batch}",
                note=f"it has {', '.join(map(str, self.batches))}",
            )
        at = self.batches.index(batch)
        report = (*self.report.smaller, self.report)[at]
        report = replace(report, smaller=(), stored_weight_bytes=report.weight_bytes)
        return replace(self, entries=(self.entries[at],), report=report, any_batch=False)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the network on the feeds and waits for it.

        feeds: for every input an array of its shape and dtype, NumPy's or any that speaks
        DLPack; one that lies on the device is not copied to the host. Built for buckets, it takes
        1 image or more: the first dimension of every array, and of every output. How they run is
        the rule of `buckets.plan_batches`.

        Gives every output by name: NumPy arrays for NumPy arrays, torch tensors where a torch
        tensor came in, else TVM tensors, on the device the network ran on. Raises `FeedError`,
        and `TargetError` where there is no such device.
        """
        torch = sys.modules.get("torch")
        with self._loaded.lock:
            arrays = read(self.inputs, feeds, self.any_batch)
            device = self.device()
            of_torch = [x for x in feeds.values() if torch and isinstance(x, torch.Tensor)]
            if torch and any(x.is_cuda for x in of_torch):
                # What still writes the feeds was started on a stream that TVM does not wait for.
                torch.cuda.current_stream().synchronize()
            on_host = all(isinstance(feed, np.ndarray) for feed in feeds.values())
            if self.any_batch:
                results = self._run_chunks(arrays, on_host)
            else:
                results = self._run_entry(self.entries[-1], arrays, on_host)
            if not on_host:
                device.sync()
        if torch and of_torch:
            results = [torch.from_dlpack(result) for result in results]
        return {spec.name: one for spec, one in zip(self.outputs, results, strict=True)}

    def bind(self, feeds: Mapping[str, Any] | None = None) -> Binding:
        """The network with inputs and outputs that stay in place: on a GPU one CUDA graph.

        feeds: what the inputs are to begin with, as `run` takes it; zeros by default. Whatever is
        fed is copied; write to `Binding.inputs` later. Of an executable with buckets the largest
        is bound; `bucket` gives the others. Bindings have the weights in common, and else memory
        of their own. Raises as `run` does.
        """
        with self._loaded.lock:
            arrays = None if feeds is None else read(self.inputs, feeds, False)
            entry = self.entries[-1]
            machine, weights = self._machine(entry)
            main = machine["bound" if self.target == "cuda" else "main"]

            def run(tensors: Sequence[Any]) -> Any:
                with self._loaded.lock:
                    return main(*tensors, *weights)

            return bind(self.inputs, self.outputs, run, self.device(), arrays)

    def map(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Runs every batch as `run` does, and gives the results in the same order.

        On a GPU a batch is copied in while the one before it computes and the one before that is
        copied out; so up to 3 batches are taken before the first result is given, and an array
        may be written again as soon as the next batch is asked for. It takes the memory of 3
        bindings, for every bucket that is used, until the last result is given; to set them up,
        some 100 ms for large batches. Raises as `run` does, and whatever `batches` raises, after
        the results of all batches before; then it ends.
        """
        if self.target == "cuda":
            return stream_batches(self, batches)
        return map(self.run, batches)

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
        # All but those that only the buckets beside it take.
        kept = sorted({number for entry in self.entries for number in entry.weights})
        entries = [
            {
                "inputs": [asdict(spec) for spec in entry.inputs],
                "outputs": [asdict(spec) for spec in entry.outputs],
                "weights": [kept.index(number) for number in entry.weights],
            }
            for entry in self.entries
        ]
        manifest = {
            "tvmconv": tvmconv.__version__,
            "target": self.target,
            "arch": self.arch,
            "features": list(self.features),
            "any_batch": self.any_batch,
            "entries": entries,
            "report": self.report.to_json(),
        }
        codes = tuple(entry.code for entry in self.entries)
        weights = tuple(self.weights[number] for number in kept)
        artifact.write(artifact.Artifact(manifest, codes, weights), path)

    # ------------------------------------------------------------ the steps of a run

    def _run_chunks(self, arrays: list[Any], on_host: bool) -> list[Any]:
        """The outputs of all images, from the buckets that the rule says."""
        chunks = plan_batches(arrays[0].shape[0], self.batches)
        parts = []
        for chunk in chunks:
            entry = self.entries[self.batches.index(chunk.bucket)]
            taken = [images(array, chunk.start, chunk.bucket) for array in arrays]
            parts.append(self._run_entry(entry, taken, on_host))
        counts = [chunk.count for chunk in chunks]
        return [join(outputs, counts) for outputs in zip(*parts, strict=True)]

    def _run_entry(self, entry: Entry, arrays: list[Any], on_host: bool) -> list[Any]:
        results = self._enqueue(entry, [place(array, self.device()) for array in arrays])
        return [result.numpy() for result in results] if on_host else results

    def device(self) -> Any:
        """Where the network runs. Raises `TargetError` where there is no such device."""
        return self._device

    @cached_property
    def _device(self) -> Any:
        return find_device(self.target, self.arch, self.features)

    def transfer_in(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The feeds, checked, as tensors on the device, in the network's order."""
        return [place(array, self.device()) for array in read(self.inputs, feeds, False)]

    def enqueue(self, tensors: list[Any]) -> list[Any]:
        """Starts the network on tensors of the device; on a GPU, returns before it is done."""
        return self._enqueue(self.entries[-1], tensors)

    def _enqueue(self, entry: Entry, tensors: list[Any]) -> list[Any]:
        with self._loaded.lock:
            machine, weights = self._machine(entry)
            result = machine["main"](*tensors, *weights)
        return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)

    def traced(self, heard: Callable[..., int]) -> Callable[[list[Any]], None]:
        """What runs the network on tensors of the device call by call, never as a CUDA graph, and
        tells of each before and after: heard(function, name, before, result, *arguments) gives 0.
        """
        entry = self.entries[-1]
        _, weights = self._machine(entry)
        machine = _load_machine(entry.code, self.device())
        machine.set_instrument(heard)
        main = machine["bound" if self.target == "cuda" else "main"]
        return lambda tensors: main(*tensors, *weights)

    def transfer_out(self, results: list[Any]) -> dict[str, NDArray[Any]]:
        """The results on the host, by name. Waits until they are there."""
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

    def _machine(self, entry: Entry) -> tuple[VirtualMachine, list[Any]]:
        """The entry's virtual machine and what it takes after the inputs; both are on the device
        from the first run."""
        loaded, device = self._loaded, self.device()
        if entry not in loaded.machines:
            machine = _load_machine(entry.code, device)
            for number in set(entry.weights) - set(loaded.weights):
                loaded.weights[number] = tvm.runtime.tensor(self.weights[number], device)
            loaded.machines[entry] = machine
        return loaded.machines[entry], [loaded.weights[number] for number in entry.weights]


def _load_machine(code: bytes, device: Any) -> VirtualMachine:
    # The loader knows libraries by path, so each gets one of its own; once loaded, the file
    # is not needed any more.
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "code.so"
        path.write_bytes(code)
        try:
            return VirtualMachine(tvm.runtime.load_module(str(path)), device)
        except Exception as error:
            raise ArtifactError(
                "the network's code can't be loaded",
                note=first_line(error),
                hint="build it again",
            ) from error

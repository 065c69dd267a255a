"""A compiled network: code, weights and the report of its build."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime.vm import VirtualMachine

# These two register functions that kernels call by name.
import tvmconv.runtime.simulator
import tvmconv.runtime.tensor_map  # noqa: F401
from tvmconv.errors import ArtifactError, FeedError, TvmconvError, first_line
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime import artifact
from tvmconv.runtime.any_shape import AnyShape
from tvmconv.runtime.binding import Binding, bind
from tvmconv.runtime.buckets import Chunk, Shapes, is_whole, plan_batches, without_images
from tvmconv.runtime.device import find_device
from tvmconv.runtime.entry import Entry, codes_and_models, to_items, weights_of
from tvmconv.runtime.feeds import images, join, on_host_array, place, random_feeds, read
from tvmconv.runtime.onnx_step import OnnxStep, Session
from tvmconv.runtime.streaming import stream_batches
from tvmconv.specs import TensorSpec, bucket_texts, shapes_of, shapes_text
from tvmconv.version import __version__


@dataclass
class _Loaded:
    """Code and weights on the device, shared by an executable and its buckets."""

    #: TVM's virtual machine is not thread-safe.
    lock: threading.RLock = field(default_factory=threading.RLock)
    machines: dict[Entry, VirtualMachine] = field(default_factory=dict)
    #: By the address of the array, which is beside the tensor.
    weights: dict[int, tuple[NDArray[Any], Any]] = field(default_factory=dict)
    sessions: dict[OnnxStep, Session] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Executable:
    """Made by `tvmconv.build` and `tvmconv.load`. Compiles nothing.

    Several threads may use it; their runs take turns. Built for buckets (several batches, sizes or
    both), it has an entry for each. `inputs`, `outputs`, `report` and the steps of a run are then
    those of the largest, which is fed most; `bucket` gives the others. Built for any shape, it
    compiles an entry when its shapes are first fed. It may have none before: then `inputs` and
    `outputs` have `specs.OPEN` for what may be any size.
    """

    target: str
    arch: str
    #: One for each bucket, the largest last.
    entries: tuple[Entry, ...]
    report: BuildReport
    #: Vector extensions of a CPU that the code uses, named as by `cpu_features`.
    features: tuple[str, ...] = ()
    #: True if `run` takes any number of images, not only the batch of `inputs`.
    any_batch: bool = False
    #: What compiles other shapes when they are first fed; None if the entries are all there is.
    any_shape: AnyShape | None = None
    _loaded: _Loaded = field(default_factory=_Loaded, repr=False)

    @property
    def weights(self) -> tuple[NDArray[Any], ...]:
        """Weights of all `entries`, equal ones once, packed as the kernels read them."""
        return weights_of(self.entries)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the largest bucket, in order."""
        if not self.entries and self.any_shape is not None:
            return self.any_shape.recipe.inputs
        return self._largest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the largest bucket, in order."""
        if not self.entries and self.any_shape is not None:
            return self.any_shape.recipe.outputs
        return self._largest.outputs

    @property
    def code(self) -> bytes:
        """The shared library of the largest bucket; empty if it has parts."""
        return self._largest.code

    @property
    def _largest(self) -> Entry:
        """Raises `FeedError` if nothing was compiled before it is fed."""
        if not self.entries:
            raise self._none_yet()
        return self.entries[-1]

    def _none_yet(self) -> FeedError:
        return FeedError(
            "the network takes any shape, and none was compiled with it",
            note=f"its inputs are {', '.join(map(str, self.inputs))}",
            hint="give feeds: run(feeds), bind(feeds), compare(model, exe, feeds)",
            shell="give what to feed: --input name=array.npy",
        )

    def _buckets(self) -> list[Entry]:
        """All entries: those that were foreseen, then those in memory beside them."""
        return [*self.entries, *(self.any_shape.entries() if self.any_shape else ())]

    @property
    def in_parts(self) -> bool:
        """True if onnxruntime runs some parts of it; `report` says which."""
        return any(entry.steps for entry in self._buckets())

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches it is compiled for, ascending; each of several sizes may have others."""
        return tuple(sorted({entry.batch for entry in self.entries}))

    def __repr__(self) -> str:
        ins = ", ".join(map(str, self.inputs))
        outs = ", ".join(map(str, self.outputs))
        texts = bucket_texts((entry.batch, shapes_of(entry.inputs)) for entry in self.entries)
        several = self.any_batch or len(texts) > 1
        buckets = f", buckets {', '.join(texts)}" if several and texts else ""
        buckets += ", any shape" if self.any_shape else ""
        return f"Executable({self.target} {self.arch}{buckets}: {ins} -> {outs})"

    def bucket(
        self, batch: int | None = None, shapes: Mapping[str, Sequence[int]] | None = None
    ) -> Executable:
        """The network at one of its buckets; weights on the device are shared.

        batch: one of its `batches`. shapes: of inputs by name, as they are fed. Either is enough
        where it names one bucket. Raises `FeedError` if there is no such bucket, or several.
        """
        every = self._buckets()
        found = [
            entry
            for entry in every
            if batch in (None, entry.batch)
            and all(
                tuple(shape) == shapes_of(entry.inputs).get(name)
                for name, shape in (shapes or {}).items()
            )
        ]
        if len(found) != 1:
            there = found or every
            texts = bucket_texts((entry.batch, shapes_of(entry.inputs)) for entry in there)
            asked = [] if batch is None else [f"of {batch}"]
            asked += [f"of {shapes_text(shapes)}"] if shapes else []
            raise FeedError(
                f"the network has {'several buckets' if found else 'no bucket'} "
                + (" and ".join(asked) or "to choose from"),
                note=f"it has {', '.join(texts) or 'none yet'}",
                hint="name one by its batch, its shapes, or both",
            )
        return self.only(found[0])

    def only(self, entry: Entry) -> Executable:
        """The network at one of its entries."""
        if self.entries == (entry,) and not self.any_batch and not self.any_shape:
            return self
        report = self.any_shape.report_of(entry) if self.any_shape else None
        if report is None and entry in self.entries:
            report = (*self.report.smaller, self.report)[self.entries.index(entry)]
        if report is None:
            raise FeedError("the bucket is no more: others were fed", hint="feed its shapes again")
        report = replace(report, smaller=(), any_shape=False)
        report = replace(report, stored_weight_bytes=report.weight_bytes)
        return replace(self, entries=(entry,), report=report, any_batch=False, any_shape=None)

    def each_bucket(
        self, feeds: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Executable, Mapping[str, Any]]]:
        """Every bucket as an executable of its own, with what to feed it.

        Without `feeds`, `random_feeds`. With them, every bucket of their size, compiled if need be:
        for a network built for several batches, as many of the images as it holds, repeated if they
        are fewer. Raises `FeedError`.
        """
        if feeds is None:
            if not self._buckets():
                raise self._none_yet()
            for entry in self._buckets():
                one = self.only(entry)
                yield one, random_feeds(one.inputs)
            return
        arrays = self.read(feeds)
        if self.any_shape is not None:
            self.any_shape.shares(_shapes(arrays), wait=True)
        for entry in self._fitting(arrays):
            one = self.only(entry)
            if not self.any_batch:
                yield one, feeds
                continue
            filled = (images(array, 0, entry.batch) for array in arrays)
            yield one, dict(zip((spec.name for spec in self.inputs), filled, strict=True))

    def read(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Checks feeds of `run` and returns them in the order of `inputs`: NumPy arrays, or TVM
        tensors. Raises `FeedError`."""
        if self.any_shape is not None:
            return read([self.any_shape.recipe.inputs], feeds, self.any_batch)
        return read([entry.inputs for entry in self.entries], feeds, self.any_batch)

    def shares(self, arrays: Sequence[Any]) -> list[tuple[Entry, Chunk]]:
        """The entries that run arrays of `read`, with the images that each takes, in order.

        Of any shape, what is missing is compiled; raises as `build` does.
        """
        if self.any_shape is not None:
            return self.any_shape.shares(_shapes(arrays))
        fitting = {entry.batch: entry for entry in self._fitting(arrays)}
        if not self.any_batch:
            (entry,) = fitting.values()
            return [(entry, Chunk(entry.batch, 0, entry.batch))]
        return [
            (fitting[chunk.bucket], chunk) for chunk in plan_batches(arrays[0].shape[0], fitting)
        ]

    def _fitting(self, arrays: Sequence[Any]) -> list[Entry]:
        """The entries of the size of `arrays`; of several batches, all batches of that size."""
        fed = without_images(_shapes(arrays), self.any_batch)
        every = self._buckets()
        return [entry for entry in every if without_images(entry.shapes, self.any_batch) == fed]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the network on the feeds and waits for it.

        feeds: for every input an array of its shape and dtype, from NumPy or anything that
        supports DLPack; an array on the device is not copied to the host. Built for several sizes,
        the bucket of these shapes runs. Built for several batches, it takes any number of images,
        the first dimension of every input and output, and cuts them into batches by
        `buckets.plan_batches`. Built for any shape, it compiles the bucket of a new one first, or
        in a thread, where a bucket of other batches serves meanwhile.

        Returns every output by name: NumPy arrays if all feeds are, torch tensors if one of them
        is, else TVM tensors; the latter two on the device the network ran on. Raises `FeedError`
        for feeds that do not fit, `TargetError` if this machine lacks the device, and as `build`
        does where a bucket is compiled.
        """
        torch = sys.modules.get("torch")
        arrays, device = self.read(feeds), self.device()
        if self.any_shape is not None:
            self.shares(arrays)  # compiles what is missing while other threads run
        with self._loaded.lock:
            of_torch = [x for x in feeds.values() if torch and isinstance(x, torch.Tensor)]
            if torch and any(x.is_cuda for x in of_torch):
                # Kernels that write the feeds may still run on a stream that TVM does not wait for.
                torch.cuda.current_stream().synchronize()
            on_host = all(isinstance(feed, np.ndarray) for feed in feeds.values())
            results = self._run_shares(self.shares(arrays), arrays, on_host)
            if not on_host:
                device.sync()
        if torch and of_torch:
            results = [torch.from_dlpack(result) for result in results]
        return {spec.name: one for spec, one in zip(self.outputs, results, strict=True)}

    def bind(self, feeds: Mapping[str, Any] | None = None) -> Binding:
        """The network with inputs and outputs that stay in place; on a GPU one CUDA graph.

        feeds: first values of the inputs, as for `run`; zeros by default. They are copied; write
        to `Binding.inputs` later. With buckets, that of the shapes of `feeds` is bound, without
        them the largest; `bucket` gives the others. Bindings share the weights and have activations
        of their own. Raises as `run` does, and a `TvmconvError` if onnxruntime runs a part of the
        network.
        """
        self._require_whole("bind")
        with self._loaded.lock:
            if feeds is None:
                entry, arrays = self._largest, None
            else:
                if self.any_shape is not None:
                    self.any_shape.shares(_shapes(self.read(feeds)), wait=True)
                every = self._buckets()
                arrays = read([entry.inputs for entry in every], feeds, False)
                entry = next(entry for entry in every if entry.shapes == _shapes(arrays))
            machine, weights = self._machine(entry)
            main = machine["bound" if self.target == "cuda" else "main"]

            def run(tensors: Sequence[Any]) -> Any:
                with self._loaded.lock:
                    return main(*tensors, *weights)

            return bind(entry.inputs, entry.outputs, run, self.device(), arrays)

    def map(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Runs every batch as `run` does and yields the results in the same order.

        On a GPU a batch is copied in while the previous one computes and the one before that is
        copied out. So up to 3 batches are taken before the first result, and an array may be
        overwritten as soon as the next batch is requested. Until the last result it holds 3
        bindings for every bucket in use, which takes some 100 ms to set up for large batches.
        Errors of `run` and of `batches` are raised after the results of all earlier batches.
        With parts in onnxruntime, it is one `run` after the other.
        """
        if self.target == "cuda" and not self.in_parts:
            return stream_batches(self, batches)
        return map(self.run, batches)

    def __call__(self, array: Any) -> Any:
        """Runs a network of one input and one output. Raises `FeedError` for another."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise FeedError(
                f"the network has {len(self.inputs)} inputs and {len(self.outputs)} outputs",
                hint="name them: exe.run({...})",
            )
        return self.run({self.inputs[0].name: array})[self.outputs[0].name]

    def save(self, path: str | Path) -> None:
        """Writes one file that `tvmconv.load` reads. Raises `ArtifactError`.

        Of any shape, it has the buckets that were foreseen, and the model.
        """
        weights = weights_of(self.entries)
        codes, models = codes_and_models(self.entries)
        recipe = self.any_shape.recipe if self.any_shape else None
        sizes = {without_images(entry.shapes, self.any_batch) for entry in self.entries}
        # A version that knows one size alone would run the wrong bucket.
        known = {"format": artifact.FORMAT_OF_SIZES} if len(sizes) > 1 or recipe else {}
        manifest = known | {
            "tvmconv": __version__,
            "target": self.target,
            "arch": self.arch,
            "features": list(self.features),
            "any_batch": self.any_batch,
            "entries": to_items(self.entries, weights),
            "report": self.report.to_json(),
        }
        if recipe is not None:
            manifest["any_shape"] = recipe.to_json()
            models += (recipe.model,)
        artifact.write(artifact.Artifact(manifest, codes, weights, models), path)

    # ------------------------------------------------------------ the steps of a run

    def _run_shares(
        self, shares: Sequence[tuple[Entry, Chunk]], arrays: list[Any], on_host: bool
    ) -> list[Any]:
        """Outputs of all images, run as `shares` says."""
        if is_whole(shares):
            return self._run_entry(shares[0][0], arrays, on_host)
        parts = []
        for entry, chunk in shares:
            taken = [images(array, chunk.start, chunk.bucket) for array in arrays]
            parts.append(self._run_entry(entry, taken, on_host))
        counts = [chunk.count for _, chunk in shares]
        return [join(outputs, counts) for outputs in zip(*parts, strict=True)]

    def _run_entry(self, entry: Entry, arrays: list[Any], on_host: bool) -> list[Any]:
        if entry.steps:
            results = self._run_steps(entry, arrays)
        else:
            results = self._enqueue(entry, [place(array, self.device()) for array in arrays])
        if on_host:
            return [on_host_array(result) for result in results]
        return [place(result, self.device()) for result in results]

    def _run_steps(
        self,
        entry: Entry,
        arrays: Sequence[Any],
        heard: Callable[[int, float], None] | None = None,
    ) -> list[Any]:
        """Outputs of a network in parts: NumPy arrays, or tensors on the device.

        A tensor crosses to the host where onnxruntime reads it and to the device where compiled
        code does. heard: gets the number of each step and its seconds, copies included.
        """
        device = self.device()
        values = {spec.name: one for spec, one in zip(entry.inputs, arrays, strict=True)}
        for number, step in enumerate(entry.steps):
            started = perf_counter()
            if isinstance(step, OnnxStep):
                session = self._session(step)
                values |= session.run({name: on_host_array(values[name]) for name in step.inputs})
            else:
                placed = [place(values[spec.name], device) for spec in step.inputs]
                made = self._enqueue(step, placed)
                names = (spec.name for spec in step.outputs)
                values |= zip(names, made, strict=True)
            if heard is not None:
                device.sync()
                heard(number, perf_counter() - started)
        return [values[spec.name] for spec in entry.outputs]

    def step_seconds(self, tensors: Sequence[Any]) -> list[float]:
        """Seconds of every step of one run, for a network in parts; tensors: its inputs."""
        seconds: list[float] = []
        with self._loaded.lock:
            self._run_steps(self._largest, tensors, lambda _, taken: seconds.append(taken))
        return seconds

    def _session(self, step: OnnxStep) -> Session:
        """The session of a step, opened at the first call."""
        if step not in self._loaded.sessions:
            self._loaded.sessions[step] = Session(step, self.target)
        return self._loaded.sessions[step]

    def _require_whole(self, what: str) -> None:
        """Raises `TvmconvError` if onnxruntime runs a part of the network."""
        if self.in_parts:
            raise TvmconvError(
                f"a network of which onnxruntime runs a part has no {what}",
                note="its tensors cross between the host and compiled code",
                hint="use run, or map for many batches",
            )

    def device(self) -> Any:
        """TVM's device that the network runs on. Raises `TargetError` if this machine lacks it."""
        return self._device

    @cached_property
    def _device(self) -> Any:
        return find_device(self.target, self.arch, self.features)

    def transfer_in(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Checks feeds and returns them as tensors on the device, in the order of `inputs`."""
        return [place(array, self.device()) for array in read([self.inputs], feeds, False)]

    def enqueue(self, tensors: list[Any]) -> list[Any]:
        """Starts the network on tensors of the device; on a GPU, returns before it is done, unless
        onnxruntime runs a part of it."""
        entry = self._largest
        if entry.steps:
            with self._loaded.lock:
                made = self._run_steps(entry, tensors)
            return [place(one, self.device()) for one in made]
        return self._enqueue(entry, tensors)

    def _enqueue(self, entry: Entry, tensors: list[Any]) -> list[Any]:
        with self._loaded.lock:
            machine, weights = self._machine(entry)
            result = machine["main"](*tensors, *weights)
        return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)

    def traced(self, heard: Callable[..., int]) -> Callable[[list[Any]], None]:
        """Returns a function that runs the network on tensors of the device call by call.

        It calls heard(function, name, before, result, *arguments), which returns 0, before and
        after each, and uses no CUDA graph. Raises `TvmconvError` if onnxruntime runs a part.
        """
        self._require_whole("trace of its calls")
        entry = self._largest
        _, weights = self._machine(entry)
        machine = _load_machine(entry.code, self.device())
        machine.set_instrument(heard)
        main = machine["bound" if self.target == "cuda" else "main"]
        return lambda tensors: main(*tensors, *weights)

    def transfer_out(self, results: list[Any]) -> dict[str, NDArray[Any]]:
        """Copies results to the host, by name, and waits for them."""
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

    def _machine(self, entry: Entry) -> tuple[VirtualMachine, list[Any]]:
        """The entry's virtual machine and its weights, loaded to the device at the first call."""
        loaded, device = self._loaded, self.device()
        if self.any_shape is not None:
            self._forget({*self._buckets(), entry})
        if entry not in loaded.machines:
            machine = _load_machine(entry.code, device)
            for array in entry.weights:
                if id(array) not in loaded.weights:
                    loaded.weights[id(array)] = array, tvm.runtime.tensor(array, device)
            loaded.machines[entry] = machine
        return loaded.machines[entry], [loaded.weights[id(array)][1] for array in entry.weights]

    def _forget(self, kept: Set[Entry]) -> None:
        """Frees what was loaded of entries other than these and their parts."""
        kept = {one for entry in kept for one in (entry, *entry.steps) if isinstance(one, Entry)}
        loaded = self._loaded
        if gone := loaded.machines.keys() - kept:
            for entry in gone:
                del loaded.machines[entry]
            used = {id(array) for entry in loaded.machines for array in entry.weights}
            for address in loaded.weights.keys() - used:
                del loaded.weights[address]


def _shapes(arrays: Sequence[Any]) -> Shapes:
    return tuple(tuple(array.shape) for array in arrays)


def _load_machine(code: bytes, device: Any) -> VirtualMachine:
    """Loads the shared library of an entry. Raises `ArtifactError`."""
    # The loader caches libraries by path, so each gets its own; the file is not needed after.
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

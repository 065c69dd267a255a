"""Networks of any shape: a bucket is compiled when its shapes are first fed.

    run ──▶ AnyShape.shares ── in memory? ── in the folder? ──▶ compiled, and kept in both
                                                │ where others serve meanwhile: in a thread

Others serve meanwhile if they differ in their batch alone and images are known not to affect each
other. What compiles, `tvmconv.compiler.new_bucket`, is found by its name when it is needed: it lies
above the runtime, and is not there where only TVM's runtime is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tvm

from tvmconv import knobs
from tvmconv.errors import FeedError
from tvmconv.reports.data.build import BuildReport
from tvmconv.runtime.artifact import Artifact
from tvmconv.runtime.bucket_cache import BucketCache
from tvmconv.runtime.buckets import Chunk, Shapes, plan_batches, without_images
from tvmconv.runtime.entry import (
    Array,
    Entry,
    codes_and_models,
    from_items,
    specs_from_json,
    to_items,
    weights_of,
)
from tvmconv.runtime.feeds import there_are
from tvmconv.specs import TensorSpec, shapes_text
from tvmconv.version import TVM_PAIR, __version__

log = logging.getLogger(__name__)

#: Compiles one bucket, given the shapes that are fed.
Compiler = Callable[["Recipe", Shapes], tuple[Entry, BuildReport]]
#: One is compiled at a time in this process: it takes all cores as it is.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that further buckets are compiled from."""

    #: An ONNX file, quantised if a build was given scales beside it.
    model: bytes
    #: Arguments of `tvmconv.build`, as JSON has them; ``seen`` has what `calibrate` saw.
    options: dict[str, Any]
    #: Those of a list of batches; else none.
    batches: tuple[int, ...]
    #: As fed and given, with `OPEN` for what may be any size.
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def identity(self) -> str:
        """A hash of all that decides what is compiled: model, options and versions."""
        versions = {"tvmconv": __version__, **TVM_PAIR}
        told = [versions, self.options, self.batches]
        found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        found.update(self.model)
        return found.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The fields but the model."""
        return {
            "options": self.options,
            "batches": list(self.batches),
            "inputs": [asdict(spec) for spec in self.inputs],
            "outputs": [asdict(spec) for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], model: bytes) -> Recipe:
        """Inverse of `to_json`. Raises ``KeyError`` or ``TypeError`` for other data."""
        specs = (specs_from_json(data[key]) for key in ("inputs", "outputs"))
        return cls(model, dict(data["options"]), tuple(data["batches"]), *specs)


@dataclass
class _Made:
    """A bucket in memory."""

    entry: Entry
    report: BuildReport
    #: Its weights by digest.
    weights: dict[str, Array]
    #: When it last ran, in seconds since the epoch.
    used: float


class AnyShape:
    """The buckets of a network beside those that were foreseen. Several threads may use it."""

    def __init__(self, recipe: Recipe, foreseen: Sequence[Entry], beside: Path | None) -> None:
        """foreseen: entries of the artifact. beside: its path, where it was loaded from a file."""
        self.recipe = recipe
        self._foreseen = {entry.shapes: entry for entry in foreseen}
        self._folder = knobs.buckets_folder()
        if self._folder is None and beside is not None:
            self._folder = beside.with_name(beside.name + ".buckets")
        self._most = knobs.most_buckets()
        self._lock = threading.Lock()
        #: By shapes, the least recently used first.
        self._made: OrderedDict[Shapes, _Made] = OrderedDict()
        self._compiling: dict[Shapes, Future[Entry]] = {}
        #: Shapes that could not be compiled in a thread: others serve, and go on to.
        self._failed: set[Shapes] = set()
        self._in_thread = False

    @cached_property
    def _shared(self) -> dict[str, Array]:
        """Weights of the entries that were foreseen, by digest."""
        return {digest(array): array for array in weights_of(self._foreseen.values())}

    @cached_property
    def _cache(self) -> BucketCache:
        """The folder. Files are without the weights that the network has, so these belong to it."""
        told = [self.recipe.identity, *sorted(self._shared)]
        return BucketCache(self._folder, hashlib.sha256("".join(told).encode()).hexdigest())

    @property
    def any_batch(self) -> bool:
        """True if any number of images is cut into batches of a list."""
        return bool(self.recipe.batches)

    def entries(self) -> list[Entry]:
        """The buckets in memory, beside those that were foreseen."""
        with self._lock:
            return [made.entry for made in self._made.values()]

    def report_of(self, entry: Entry) -> BuildReport | None:
        """The report of a bucket in memory."""
        with self._lock:
            made = self._made.get(entry.shapes)
            return made.report if made is not None and made.entry is entry else None

    def shares(self, fed: Shapes, wait: bool = False) -> list[tuple[Entry, Chunk]]:
        """The entries that run arrays of these shapes, with the images that each takes, in order.

        wait: compile all that is wanted, even if others could serve meanwhile. Raises `FeedError`
        if a bucket is missing and can't be compiled here, and as `build` does.
        """
        n = next((shape[0] for shape in fed if shape), 1)
        wanted = {chunk.bucket for chunk in plan_batches(n, self.recipe.batches or (n,))}
        have = {}
        for batch in sorted(wanted):
            found = self.find(self._at(fed, batch))
            if found is not None:
                have[batch] = found
        missing = sorted(wanted - have.keys())
        if wait:
            have |= {batch: self.get(self._at(fed, batch)) for batch in missing}
        elif missing:
            have = have or self._others(fed)
            if not have:
                largest = missing.pop()
                have = {largest: self.get(self._at(fed, largest))}
            for batch in missing:
                self._start(self._at(fed, batch))
        return [(have[chunk.bucket], chunk) for chunk in plan_batches(n, have)]

    def get(self, shapes: Shapes) -> Entry:
        """The bucket of these shapes, compiled here if it is nowhere. Raises as `shares` does."""
        found = self.find(shapes)
        if found is not None:
            return found
        with self._lock:
            if shapes in self._made:
                return self._made[shapes].entry
            future = self._compiling.get(shapes)
            mine = future is None
            if future is None:
                future = self._compiling[shapes] = Future()
        if mine:
            self._fill(shapes, future)
        return future.result()

    def find(self, shapes: Shapes) -> Entry | None:
        """The bucket of these shapes, if it was foreseen, is in memory or in the folder."""
        if shapes in self._foreseen:
            return self._foreseen[shapes]
        with self._lock:
            made = self._made.get(shapes)
            if made is not None:
                self._made.move_to_end(shapes)
                made.used = time.time()
                return made.entry
        stored = self._cache.read(shapes)
        if stored is None:
            return None
        try:
            made = self._from_artifact(stored, shapes)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            log.warning("%s is left out: %r", self._cache.path(shapes), error)
            return None
        return self._keep(shapes, made)

    def _at(self, fed: Shapes, batch: int) -> Shapes:
        """The shapes that are fed, with another number of images if there may be any."""
        return tuple((batch, *shape[1:]) for shape in fed) if self.any_batch else fed

    def _others(self, fed: Shapes) -> dict[int, Entry]:
        """Entries that run images like these, by batch."""
        images = without_images(fed, True)
        return {
            entry.batch: entry
            for entry in (*self._foreseen.values(), *self.entries())
            if entry.separable and without_images(entry.shapes, True) == images
        }

    # ------------------------------------------------------------ compiling

    def _start(self, shapes: Shapes) -> None:
        """Compiles in a thread, which the process waits for before it ends.

        There is one at a time: what it leaves out is asked for again when it is fed again.
        """
        with self._lock:
            known = shapes in self._made or shapes in self._compiling or shapes in self._failed
            if known or self._in_thread or not can_compile():
                return  # others serve
            future = self._compiling[shapes] = Future()
            self._in_thread = True
        thread = threading.Thread(
            target=self._fill, args=(shapes, future, True), name=f"bucket {self._text(shapes)}"
        )
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the process ends
            with self._lock:
                del self._compiling[shapes]
                self._in_thread = False
            future.set_exception(error)

    def _fill(self, shapes: Shapes, future: Future[Entry], in_thread: bool = False) -> None:
        """Gives a future its bucket, or its error."""
        try:
            entry = self._keep(shapes, self._compiled(shapes, in_thread), new=True)
        except BaseException as error:
            if in_thread:
                log.warning("a bucket of %s can't be compiled: %s", self._text(shapes), error)
                self._failed.add(shapes)
            future.set_exception(error)
        else:
            future.set_result(entry)
        finally:
            with self._lock:
                del self._compiling[shapes]
                self._in_thread &= not in_thread

    def _compiled(self, shapes: Shapes, in_thread: bool) -> _Made:
        if not can_compile():
            with self._lock:
                there = dict.fromkeys([*self._foreseen, *self._made, *self._cache.shapes()])
            given = ", ".join(map(str, self._specs(shapes)))
            raise FeedError(
                f"no bucket of {given} is compiled yet, and none can be here",
                note=there_are([self._specs(one) for one in there], shapes, self.any_batch),
                hint="feed one of these, or compile the others where not only TVM's runtime is "
                "installed: with its compiler, onnx and onnxruntime",
            )
        with _ONE_AT_A_TIME:
            started = time.perf_counter()
            entry, report = compiler()(self.recipe, shapes)
            where = " beside the runs" if in_thread else ""
            text, taken = self._text(shapes), time.perf_counter() - started
            log.info("compiled a bucket of %s in %.1f s%s", text, taken, where)
        return self._with_shared(entry, report)

    def _with_shared(self, entry: Entry, report: BuildReport) -> _Made:
        """The bucket with weights of others in the place of its own, where they are equal."""
        known = dict(self._shared)
        with self._lock:
            for made in self._made.values():
                known |= made.weights
        weights: dict[str, Array] = {}

        def exchange(array: Array) -> Array:
            name = digest(array)
            return weights.setdefault(name, known.get(name, array))

        return _Made(entry.with_weights(exchange), report, weights, time.time())

    def _keep(self, shapes: Shapes, made: _Made, new: bool = False) -> Entry:
        """Keeps a bucket in memory, a new one in the folder as well; lets go of others."""
        with self._lock:
            if shapes in self._made:  # another thread was faster
                return self._made[shapes].entry
            self._made[shapes] = made
            gone = [self._made.popitem(last=False)[0] for _ in range(len(self._made) - self._most)]
            used = {one: kept.used for one, kept in self._made.items()}
        for one in gone:
            log.info(
                "let go of the bucket of %s, the least recently used of more than %d",
                self._text(one),
                self._most,
            )
        if new:
            self._cache.write(shapes, self._to_artifact(made))
            self._cache.trim(self._most, used)
        return made.entry

    # ------------------------------------------------------------ in the folder

    def _to_artifact(self, made: _Made) -> Artifact:
        """A file's contents: without the weights that the network's own file has."""
        weights = weights_of([made.entry])
        names = {id(array): name for name, array in made.weights.items()}
        digests = [names[id(array)] for array in weights]
        codes, models = codes_and_models([made.entry])
        manifest = {
            "entries": to_items([made.entry], weights),
            "report": made.report.to_json(),
            "digests": digests,
        }
        own = (a for a, one in zip(weights, digests, strict=True) if one not in self._shared)
        return Artifact(manifest, codes, tuple(own), models)

    def _from_artifact(self, stored: Artifact, shapes: Shapes) -> _Made:
        """Inverse of `_to_artifact`. Raises ``ValueError``, ``KeyError``, ``TypeError`` or
        ``IndexError`` for another file."""
        manifest, own = stored.manifest, iter(stored.weights)
        weights = []
        for one in manifest["digests"]:
            array = self._shared[one] if one in self._shared else next(own, None)
            if array is None:
                raise ValueError("it needs weights that the network does not have")
            weights.append(array)
        (entry,) = from_items(manifest["entries"], weights, stored.codes, stored.models)
        if entry.shapes != shapes:
            raise ValueError(f"it is of other shapes, {entry.shapes}")
        return self._with_shared(entry, BuildReport.from_json(manifest["report"]))

    # ------------------------------------------------------------ in words

    def _specs(self, shapes: Shapes) -> list[TensorSpec]:
        pairs = zip(self.recipe.inputs, shapes, strict=True)
        return [replace(spec, shape=shape) for spec, shape in pairs]

    def _text(self, shapes: Shapes) -> str:
        return shapes_text({spec.name: spec.shape for spec in self._specs(shapes)})


def digest(array: Array) -> str:
    """A hash of an array's elements, dtype and shape."""
    found = hashlib.sha256(f"{array.dtype.str} {array.dtype.name} {array.shape}".encode())
    found.update(array.tobytes())
    return found.hexdigest()


def can_compile() -> bool:
    """True if all is installed that compiling takes: TVM's compiler, onnx and onnxruntime."""
    if tvm.base._RUNTIME_ONLY:
        return False
    return all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))


def compiler() -> Compiler:
    """Returns `tvmconv.compiler.new_bucket.compile_bucket`."""
    return importlib.import_module("tvmconv.compiler.new_bucket").compile_bucket

"""The network compiled for one bucket: `Entry`, and its form in the manifest of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from numpy.typing import NDArray

from tvmconv.runtime.buckets import Shapes
from tvmconv.runtime.onnx_step import OnnxStep
from tvmconv.specs import TensorSpec, batch_of

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Entry:
    """The network compiled for one bucket."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: A shared library: the kernels and the virtual machine's byte code.
    code: bytes
    #: Arguments after the inputs, in order, packed as the kernels read them. Entries of one network
    #: share equal ones: they are the same object.
    weights: tuple[Array, ...]
    #: The parts of a network of which onnxruntime runs some, in order; `code` is empty then, and
    #: `weights` are those of all parts. They hand each other tensors by name.
    steps: tuple[Entry | OnnxStep, ...] = ()
    #: True if images are known not to affect each other, so that others may share a run.
    separable: bool = False

    @property
    def batch(self) -> int:
        """Images of one run."""
        return batch_of(self.inputs)

    @property
    def shapes(self) -> Shapes:
        """Shapes of the inputs, in order."""
        return tuple(spec.shape for spec in self.inputs)

    def with_weights(self, exchange: Callable[[Array], Array]) -> Entry:
        """The entry with others in the place of its weights."""
        steps = (
            step.with_weights(exchange) if isinstance(step, Entry) else step for step in self.steps
        )
        return replace(self, weights=tuple(map(exchange, self.weights)), steps=tuple(steps))


def weights_of(entries: Iterable[Entry]) -> tuple[Array, ...]:
    """The weights of all entries, each once, in the order in which they are read."""
    return tuple({id(array): array for entry in entries for array in entry.weights}.values())


# ---------------------------------------------------------------- in a manifest


def to_items(entries: Sequence[Entry], weights: Sequence[Array]) -> list[dict[str, Any]]:
    """Entries as JSON, with weights as their numbers in `weights`."""
    numbers = {id(array): number for number, array in enumerate(weights)}

    def item(entry: Entry | OnnxStep) -> dict[str, Any]:
        if isinstance(entry, OnnxStep):
            return {"onnx": True, "inputs": list(entry.inputs), "outputs": list(entry.outputs)}
        found: dict[str, Any] = {
            "inputs": [asdict(spec) for spec in entry.inputs],
            "outputs": [asdict(spec) for spec in entry.outputs],
            "weights": [numbers[id(array)] for array in entry.weights],
        }
        if entry.steps:
            found["steps"] = [item(step) for step in entry.steps]
        return found | ({"separable": True} if entry.separable else {})

    return [item(entry) for entry in entries]


def codes_and_models(entries: Iterable[Entry]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The code of all compiled parts, and the models of others, in order."""
    steps = [step for entry in entries for step in entry.steps or (entry,)]
    codes = tuple(step.code for step in steps if isinstance(step, Entry))
    return codes, tuple(step.model for step in steps if isinstance(step, OnnxStep))


def from_items(
    items: Sequence[dict[str, Any]],
    weights: Sequence[Array],
    codes: Sequence[bytes],
    models: Sequence[bytes],
) -> tuple[Entry, ...]:
    """Inverse of `to_items`. Raises ``ValueError`` if code or models are missing or left, and
    ``KeyError``, ``IndexError`` or ``TypeError`` for other items."""
    codes_left, models_left = iter(codes), iter(models)

    def step(item: dict[str, Any]) -> Entry | OnnxStep:
        if not item.get("onnx"):
            return entry(item)
        return OnnxStep(tuple(item["inputs"]), tuple(item["outputs"]), _taken(models_left))

    def entry(item: dict[str, Any]) -> Entry:
        own = tuple(weights[range(len(weights))[number]] for number in item["weights"])
        inputs, outputs = (specs_from_json(item[key]) for key in ("inputs", "outputs"))
        steps = tuple(map(step, item.get("steps", ())))
        code = b"" if steps else _taken(codes_left)
        return Entry(inputs, outputs, code, own, steps, item.get("separable", False))

    found = tuple(map(entry, items))
    if [*codes_left, *models_left]:
        raise ValueError("the file has more code than the manifest has entries")
    return found


def _taken(contents: Iterator[bytes]) -> bytes:
    content = next(contents, None)
    if content is None:
        raise ValueError("the file has less code than the manifest has entries")
    return content


def specs_from_json(items: Iterable[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    """Specs of which ``asdict`` made `items`."""
    return tuple(TensorSpec(**{**item, "shape": tuple(item["shape"])}) for item in items)

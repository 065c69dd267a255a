"""The buckets of a build, and the conditions for building a network for several batches.

A bucket is one size for every dimension of the inputs. A build has one for each of its `shapes` at
each of its batches, and each is compiled by itself.

A network built for several batches runs any number of images: they are cut into batches, which are
filled up (`tvmconv.runtime.buckets`). That is right only if images are the first dimension of every
input and output, and if an image's output depends on that image alone. Both are checked before
anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal, TypeGuard, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from tvmconv.errors import ModelError, ShapeError, first_line
from tvmconv.onnx.model import check_batch, fix_shapes, inputs, specs
from tvmconv.runtime.feeds import random_feeds
from tvmconv.runtime.session import open_session

#: The parameter `batch` of a build: one batch, or a sequence of them.
Batch = int | Sequence[int] | None
#: Whole shapes of inputs, by name; None leaves them as in the model.
OneShapes = Mapping[str, Sequence[int]] | None
#: The parameter `shapes` of a build: those of one size, or of several.
Shapes = OneShapes | Sequence[Mapping[str, Sequence[int]]]
#: The same with ``"any"``, alone or in the list: other shapes are compiled when they are first fed.
ANY = "any"
ShapesOrAny = Shapes | Literal["any"] | Sequence[Mapping[str, Sequence[int]] | Literal["any"]]

#: Relative l2 difference allowed between an image's outputs at two places of a batch, since
#: onnxruntime may add in another order.
SAME = 1e-3


def is_buckets(batch: Batch) -> TypeGuard[Sequence[int]]:
    """True for a sequence of batches."""
    return isinstance(batch, Sequence) and not isinstance(batch, str | bytes)


def sorted_batches(batch: Sequence[int]) -> tuple[int, ...]:
    """The buckets in ascending order. Raises `ShapeError` for an empty list, and for repeated or
    bad batches."""
    told = {"hint": "give batch=[1, 8, 32], in any order", "shell": "give --batch 1,8,32"}
    if not batch:
        raise ShapeError("an empty list has no batch to build for", **told)
    for one in batch:
        check_batch(one)
    if len(set(batch)) < len(batch):
        raise ShapeError(f"batches are listed twice: {list(batch)}", **told)
    return tuple(sorted(map(int, batch)))


def without_any(shapes: ShapesOrAny) -> tuple[Shapes, bool]:
    """The shapes that are foreseen, an empty list if none are, and whether any others are taken."""
    if shapes == ANY:
        return [], True
    if isinstance(shapes, Mapping) or not isinstance(shapes, Sequence) or ANY not in shapes:
        return cast("Shapes", shapes), False
    return [cast("Mapping[str, Sequence[int]]", one) for one in shapes if one != ANY], True


def each_shapes(shapes: Shapes) -> tuple[OneShapes, ...]:
    """The shapes of every size. Raises `ShapeError` for an empty list."""
    if shapes is None or isinstance(shapes, Mapping | str) or not isinstance(shapes, Sequence):
        return (shapes,)  # one, or what `fix_shapes` refuses
    if not shapes:
        raise ShapeError(
            "an empty list has no shapes to build for",
            hint="give shapes=[{'input': (1, 3, 224, 224)}, {'input': (1, 3, 320, 320)}]",
            shell="give --shape input=1,3,224,224 --shape input=1,3,320,320",
        )
    return tuple(shapes)


def at_buckets(proto: onnx.ModelProto, batch: Batch, shapes: Shapes) -> tuple[onnx.ModelProto, ...]:
    """Fixes the model's shapes at every bucket to build for, that with the most to feed last.

    shapes: as for `fix_shapes`, or several; with several batches, those at the largest. Raises
    `ShapeError` for shapes that do not fit the model, and for two that are the same.
    """
    each = each_shapes(shapes)
    if is_buckets(batch):
        batches = sorted_batches(batch)
        fixed = [_at_bucket(proto, size, batches[-1], one) for one in each for size in batches]
    else:
        fixed = [fix_shapes(proto, cast("int | None", batch), one) for one in each]
    if len(each) > 1:
        _require_different(fixed)
    return tuple(sorted(fixed, key=_size))


def _size(fixed: onnx.ModelProto) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Orders buckets: by the number of elements that are fed, then by the shapes."""
    shapes = tuple(spec.shape for spec in specs(inputs(fixed)))
    return sum(map(math.prod, shapes)), shapes


def _require_different(fixed: Sequence[onnx.ModelProto]) -> None:
    """Raises `ShapeError` for buckets of the same shapes."""
    seen = set()
    for one in fixed:
        fed = specs(inputs(one))
        if (size := tuple(spec.shape for spec in fed)) in seen:
            raise ShapeError(
                f"shapes are listed twice: {', '.join(map(str, fed))}",
                hint="give each size once; inputs that are left out have the model's",
            )
        seen.add(size)


def require_independent(proto: onnx.ModelProto, batch: Sequence[int], shapes: Shapes) -> None:
    """Checks that the images of a batch are independent of each other, at every size.

    Raises `ShapeError` if images are not the first dimension of an input or output, and
    `ModelError` if an image's output depends on its place or on other images. For the latter,
    onnxruntime runs a random image as the first of a batch, as the last of another, and alone.
    """
    for one in each_shapes(shapes):
        _require_independent(proto, batch, one)


def are_independent(proto: onnx.ModelProto, batch: int, shapes: OneShapes) -> bool:
    """True if the images of a batch of this size are known to be independent of each other."""
    try:
        require_independent(proto, [batch], shapes)
    except ModelError:
        return False
    return True


def _require_independent(proto: onnx.ModelProto, batch: Sequence[int], shapes: OneShapes) -> None:
    # At a second size too: one alone could equal the length of an output by chance.
    probe = next(size for size in count(2) if size not in batch)
    for size in (max(batch), probe):
        fixed = _at_bucket(proto, size, max(batch), shapes)
        _require_first(fixed, size)
    fed = specs(inputs(fixed))
    first, second = random_feeds(fed), random_feeds(fed, seed=1)
    for name, array in first.items():
        second[name][-1] = array[0]
    # Alone as well: a network may use the size of its batch as a number.
    image = {name: array[:1] for name, array in first.items()}
    single = _run(_at_bucket(proto, 1, max(batch), shapes), image, image)
    for name, (one, other) in _run(fixed, first, second).items():
        if not (_alike(one[0], other[-1]) and _alike(one[0], single[name][0][0])):
            raise ModelError(
                f"images of one batch affect each other in output {name!r}",
                note="with buckets, they are cut into other batches than they are fed in",
                hint=f"build for one batch: batch={max(batch)}",
                shell=f"build for one batch: --batch {max(batch)}",
            )


def _require_first(fixed: onnx.ModelProto, size: int) -> None:
    given, made = inputs(fixed), fixed.graph.output
    for kind, values in (("input", given), ("output", made)):
        for spec in specs(values):
            if spec.shape[:1] != (size,):
                raise ShapeError(
                    f"{kind} {spec.name!r} does not have the images as its first dimension",
                    note=f"at a batch of {size} its shape is {spec.shape}",
                    hint="buckets need that of every input and output; build for one batch",
                )


def _at_bucket(
    proto: onnx.ModelProto, size: int, largest: int, shapes: OneShapes
) -> onnx.ModelProto:
    return fix_shapes(proto, size, _shapes_at(shapes, size, largest))


def _shapes_at(shapes: OneShapes, size: int, largest: int) -> OneShapes:
    """Shapes at a batch, from those at the largest. Raises `ShapeError`."""
    if not isinstance(shapes, Mapping):
        return shapes  # None, or refused by `fix_shapes`
    scaled = {}
    for name, shape in shapes.items():
        if not isinstance(shape, Sequence) or tuple(shape)[:1] != (largest,):
            raise ShapeError(
                f"input {name!r} was given the shape {shape!r}, the largest bucket is {largest}",
                hint="with several batches, give the shapes that inputs have at the largest",
            )
        scaled[name] = (size, *shape[1:])
    return scaled


def _run(
    proto: onnx.ModelProto, *feeds: Mapping[str, NDArray[Any]]
) -> dict[str, list[NDArray[Any]]]:
    """Runs onnxruntime. Returns outputs by name, one for each of `feeds`. Raises `ModelError`."""
    try:
        session = open_session(proto)
        names = [output.name for output in session.get_outputs()]
        runs = [session.run(names, dict(feed)) for feed in feeds]
    except Exception as error:  # its exceptions have no common base
        raise ModelError(
            "onnxruntime does not take this model",
            note=first_line(error),
            hint="the model has to run in onnxruntime, which is asked whether images affect each "
            "other: try that first",
        ) from error
    return {name: [run[i] for run in runs] for i, name in enumerate(names)}


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    x, y = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return False
    return bool(np.linalg.norm((x - y)[finite]) <= SAME * np.linalg.norm(x[finite]))

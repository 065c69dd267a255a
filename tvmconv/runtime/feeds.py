"""Feeds of a network: checked against its specs, cut, filled up, joined, moved to the device."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from tvmconv.errors import FeedError
from tvmconv.runtime.buckets import Shapes, distance, without_images
from tvmconv.specs import OPEN, TensorSpec

#: Alignment that TVM requires of memory that it borrows, in bytes.
ALIGNMENT = 64
#: Shapes that an error names.
MOST_NAMED = 12


def read(
    buckets: Sequence[Sequence[TensorSpec]], feeds: Mapping[str, Any], any_batch: bool
) -> list[Any]:
    """Checks feeds and returns them in the order of the inputs: NumPy arrays, or TVM tensors.

    buckets: the inputs of each; they differ in shapes alone, and those of one of them have to be
    fed. Any size fits a dimension that is `OPEN`. any_batch: allows any first dimension that is the
    same for all. Raises `FeedError`.
    """
    specs = buckets[-1]
    names = [spec.name for spec in specs]
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
    sizes = {
        without_images(tuple(spec.shape for spec in inputs), any_batch): inputs
        for inputs in buckets
    }
    for spec in specs:
        _check(spec, feeds[spec.name], any_batch, len(sizes) == 1)
    fed = tuple(tuple(feeds[name].shape) for name in names)
    none = any_batch and any(shape[:1] == (0,) for shape in fed)
    if len(sizes) > 1 and (none or without_images(fed, any_batch) not in sizes):
        raise _no_bucket(list(sizes.values()), feeds, any_batch)
    if any_batch and len({feeds[name].shape[0] for name in names}) > 1:
        counts = ", ".join(f"{feeds[name].shape[0]} of {name!r}" for name in names)
        raise FeedError(
            f"inputs differ in their number of images: {counts}",
            hint="feed as many of each",
        )
    return [_readable(feeds[name]) for name in names]


def _no_bucket(
    sizes: Sequence[Sequence[TensorSpec]], feeds: Mapping[str, Any], any_batch: bool
) -> FeedError:
    names = [spec.name for spec in sizes[-1]]
    given = ", ".join(f"{name}: {_given(feeds[name])}" for name in names)
    return FeedError(
        f"the network is built for other shapes than {given}",
        note=there_are(sizes, tuple(tuple(feeds[name].shape) for name in names), any_batch),
        hint="feed one of these, or build with these shapes too: shapes=[{...}, {...}]",
        shell="feed one of these, or build with these shapes too: --shape, several times",
    )


def there_are(sizes: Sequence[Sequence[TensorSpec]], fed: Shapes, any_batch: bool) -> str:
    """The note of an error that names the shapes there are, the closest to what is fed first."""
    if not sizes:
        return "there are none yet"

    def far(specs: Sequence[TensorSpec]) -> float:
        shapes = tuple(spec.shape for spec in specs)
        return distance(without_images(shapes, any_batch), without_images(fed, any_batch))

    there = [
        ", ".join(f"{spec.name}: {_wanted(spec, any_batch)}" for spec in specs)
        for specs in sorted(sizes, key=far)
    ]
    there = list(dict.fromkeys(there))  # several batches of one size
    more = f"; and {len(there) - MOST_NAMED} more" if len(there) > MOST_NAMED else ""
    return f"it takes, the closest first, {'; '.join(there[:MOST_NAMED])}{more}"


def _given(feed: Any) -> str:
    """Dtype and shape of a feed as text."""
    return f"{str(feed.dtype).removeprefix('torch.')}{list(feed.shape)}"


def _wanted(spec: TensorSpec, any_batch: bool) -> str:
    """Dtype and shape of an input as text."""
    sizes = ["1 or more" if size == OPEN else str(size) for size in spec.shape]
    if any_batch:
        sizes[:1] = ["1 or more"]
    return f"{spec.dtype}[{', '.join(sizes)}]"


def _check(spec: TensorSpec, feed: Any, any_batch: bool, one_size: bool) -> None:
    """one_size: every bucket is of the size of `spec`, so that the feed has to be."""
    if not isinstance(feed, np.ndarray | tvm.runtime.Tensor) and not hasattr(feed, "__dlpack__"):
        raise FeedError(
            f"input {spec.name!r} got a {type(feed).__name__}",
            hint="give a NumPy array, or a tensor that speaks DLPack",
        )
    shape, dtype = tuple(feed.shape), str(feed.dtype).removeprefix("torch.")
    fixed = 1 if any_batch else 0
    fits = len(shape) == len(spec.shape) and all(
        one == wanted or (wanted == OPEN and one > 0)
        for one, wanted in zip(shape[fixed:], spec.shape[fixed:], strict=True)
    )
    fits = fits and not (any_batch and shape[0] < 1)
    if dtype != spec.dtype or (one_size and not fits):
        same = dtype == spec.dtype
        wanted = _wanted(spec, any_batch) if one_size else spec.dtype
        raise FeedError(
            f"input {spec.name!r} got {_given(feed)}, expected {wanted}",
            hint="build with another batch= or shapes=" if same else "",
            shell="build with another --batch or --shape" if same else "",
        )


def _readable(feed: Any) -> Any:
    """Borrows the feed's memory as a tensor; copies it if it is not contiguous and aligned."""
    if isinstance(feed, np.ndarray | tvm.runtime.Tensor):
        return feed
    torch = sys.modules.get("torch")
    if torch and isinstance(feed, torch.Tensor):
        if not feed.is_contiguous() or feed.data_ptr() % ALIGNMENT:
            feed = feed.clone(memory_format=torch.contiguous_format)
        return tvm.runtime.from_dlpack(feed.detach())
    if feed.__dlpack_device__()[0] == 1:  # kDLCPU
        return tvm.runtime.tensor(np.asarray(np.from_dlpack(feed), order="C"))
    return tvm.runtime.from_dlpack(feed)


def place(feed: Any, device: Any) -> Any:
    """A feed of `read` on the device, copied unless it is there already."""
    if isinstance(feed, np.ndarray):
        return tvm.runtime.tensor(np.asarray(feed, order="C"), device)
    return feed if feed.device == device else feed.copyto(device)


def on_host_array(one: Any) -> Any:
    """A copy of a tensor as an array of NumPy's; anything else is returned as it is."""
    return one.numpy() if isinstance(one, tvm.runtime.Tensor) else one


def images(feed: Any, start: int, count: int) -> Any:
    """Images `start` to `start + count` of a feed of `read`, on the feed's device.

    If there are fewer, they are repeated in turn: values that the network expects. A NumPy array
    that has enough is not copied, nor are the first images of a tensor.
    """
    has = min(count, feed.shape[0] - start)
    if isinstance(feed, np.ndarray):
        found = feed[start : start + has]
        return found if has == count else np.resize(found, (count, *feed.shape[1:]))
    if has == count and start == 0:
        return _window(feed, 0, count)
    # Kernels accept no tensor that begins inside another, so the images are copied.
    result = tvm.runtime.empty((count, *feed.shape[1:]), feed.dtype, feed.device)
    for done in range(0, count, has):
        step = min(has, count - done)
        _window(result, done, step).copyfrom(_window(feed, start, step))
    return result


def join(parts: Sequence[Any], counts: Sequence[int]) -> Any:
    """Concatenates the first `counts[i]` images of each part `i`.

    The parts are NumPy arrays, or tensors of one device, which the result is on as well.
    """
    cut = [_window(part, 0, count) for part, count in zip(parts, counts, strict=True)]
    if len(cut) == 1:
        return cut[0]
    if isinstance(cut[0], np.ndarray):
        return np.concatenate(cut)
    result = tvm.runtime.empty((sum(counts), *cut[0].shape[1:]), cut[0].dtype, cut[0].device)
    start = 0
    for part, count in zip(cut, counts, strict=True):
        _window(result, start, count).copyfrom(part)
        start += count
    return result


def _window(array: Any, start: int, count: int) -> Any:
    """Images of an array as a view of its memory."""
    if (start, count) == (0, array.shape[0]):
        return array
    if isinstance(array, np.ndarray):
        return array[start : start + count]
    image_bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * np.dtype(array.dtype).itemsize
    return array._create_view((count, *array.shape[1:]), relative_byte_offset=start * image_bytes)


def random_feeds(specs: Iterable[TensorSpec], seed: int = 0) -> dict[str, NDArray[Any]]:
    """An array for every spec: standard normal if it is a float, 8-bit numbers of any value if they
    stand for real ones, else zeros and ones."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if np.issubdtype(dtype, np.floating):
            feeds[spec.name] = rng.standard_normal(spec.shape).astype(dtype)
        elif spec.scale is not None:
            limits = np.iinfo(dtype)
            feeds[spec.name] = rng.integers(limits.min, limits.max + 1, spec.shape, dtype)
        else:  # may be indices or masks, for which 0 and 1 are valid
            feeds[spec.name] = rng.integers(0, 2, spec.shape).astype(dtype)
    return feeds

"""RoiAlign as loops, by ONNX: https://onnx.ai/onnx/operators/onnx__RoiAlign.html

A region of interest r = (image, x1, y1, x2, y2) is scaled, and its corners move by half a pixel
where it is ``aligned``; then it is cut into bins, and each bin is sampled on a grid.

    start = scale * x1 - half,  extent = scale * x2 - half - start       at least 1 if not aligned
    bin = extent / bins,  grid = sample_ratio, or ceil(bin) where that is 0
    x = start + p * bin + (g + 0.5) * bin / grid                         of sample g of bin p
    avg: the mean of interpolated samples
    max: the largest w * v of the four pixels v around any sample, w their weights in it

As in onnxruntime and ONNX's reference, max is of the weighted pixels, not of their sums; a sample
more than a pixel outside of the image is 0, and so is a bin without samples. TVM's operator takes
the half pixel off before it scales, and for max interpolates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from tvmconv.passes.legalize.extremes import LARGEST


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of one region, which are cut into bins. All but `size` are expressions."""

    start: Any
    bin: Any
    grid: Any
    size: int

    @classmethod
    def of(cls, corners: tuple[Any, Any], bins: int, size: int, attrs: Any) -> _Axis:
        """corners: the region's two, as given; size: of the image."""
        half = tirx.const(0.5 if attrs.aligned else 0.0, "float32")
        scale = tirx.const(float(attrs.spatial_scale), "float32")
        start, end = (corner.astype("float32") * scale - half for corner in corners)
        extent = end - start
        if not attrs.aligned:
            extent = tirx.Select(extent > 1.0, extent, tirx.const(1.0, "float32"))
        part = extent / tirx.const(float(bins), "float32")
        if int(attrs.sample_ratio) > 0:
            grid = tirx.const(int(attrs.sample_ratio), "int32")
        else:
            grid = te.ceil(part).astype("int32")
        return cls(start, part, grid, size)

    def sample(self, p: Any, g: Any, side: Any) -> tuple[Any, Any, Any]:
        """Returns the pixel on one side of sample g of bin p, its weight, and whether the sample is
        inside of the image. side: 0 for the pixel before it, 1 for the one after."""
        middle = g.astype("float32") + tirx.const(0.5, "float32")
        place = self.start + p.astype("float32") * self.bin
        at = place + middle * self.bin / self.grid.astype("float32")
        last = self.size - 1
        low = te.min(te.max(at.astype("int32"), 0), last)
        past = tirx.any(at < 0.0, low >= last)  # as far as the border
        above = tirx.Select(past, tirx.const(0.0, "float32"), at - low.astype("float32"))
        weight = tirx.Select(side == 0, 1.0 - above, above)
        inside = tirx.all(at >= -1.0, at <= float(self.size))
        return te.min(low + side.astype("int32"), last), weight, inside


def roi_align(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Returns the call of its loops. Regions are fp32 or fp16; samples are computed in fp32."""
    return builder.call_te(_compute, *call.args, attrs=call.attrs, primfunc_name_hint="roi_align")


def _compute(x: te.Tensor, rois: te.Tensor, attrs: Any) -> te.Tensor:
    channels_last = attrs.layout == "NHWC"
    n, *sizes = (int(size) for size in x.shape)
    c, h, w = (sizes[2], *sizes[:2]) if channels_last else sizes
    rows, columns = (int(size) for size in attrs.pooled_size)

    def axes(roi: Any) -> tuple[_Axis, _Axis]:
        return (
            _Axis.of((rois[roi, 2], rois[roi, 4]), rows, h, attrs),
            _Axis.of((rois[roi, 1], rois[roi, 3]), columns, w, attrs),
        )

    def ordered(*index: Any) -> tuple[Any, Any, Any, Any]:
        """(region, channel, row, column) of an output's index."""
        roi, one, two, three = index
        return (roi, three, one, two) if channels_last else (roi, one, two, three)

    def sampled(*index: Any) -> Any:
        roi, channel, p, q = ordered(*index)
        vertical, horizontal = axes(roi)
        # At least one sample, which is 0 where there is none.
        count_y, count_x = te.max(vertical.grid, 1), te.max(horizontal.grid, 1)
        i = te.reduce_axis((0, count_y), "i")
        j = te.reduce_axis((0, count_x), "j")
        # The four pixels around a sample.
        below, beside = te.reduce_axis((0, 2), "below"), te.reduce_axis((0, 2), "beside")
        image = te.min(te.max(rois[roi, 0].astype("int32"), 0), n - 1)
        row, weight_y, inside_y = vertical.sample(p, i.var, below.var)
        column, weight_x, inside_x = horizontal.sample(q, j.var, beside.var)
        at = (image, row, column, channel) if channels_last else (image, channel, row, column)
        inside = tirx.all(inside_y, inside_x, vertical.grid > 0, horizontal.grid > 0)
        term = weight_y * weight_x * x[at].astype("float32")
        value = tirx.if_then_else(inside, term, tirx.const(0.0, "float32"))
        terms = [i, j, below, beside]
        if attrs.mode == "max":
            return LARGEST(value, axis=terms)
        return te.sum(value / (count_y * count_x).astype("float32"), axis=terms)

    shape = (rois.shape[0], *((rows, columns, c) if channels_last else (c, rows, columns)))
    result = te.compute(shape, sampled, name="roi_align")
    if x.dtype == "float32":
        return result
    return te.compute(shape, lambda *index: result[index].astype(x.dtype), name="roi_align_cast")

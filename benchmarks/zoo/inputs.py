"""Pictures to network inputs, by the preparation that each network was trained with.

All take [N, H, W, 3] uint8 RGB pictures and return contiguous float32, [N, 3, H, W] unless they say
otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo.photos import Pictures, resized

Input = NDArray[np.float32]


def imagenet(pictures: Pictures) -> Input:
    """Returns RGB at 224x224, each colour at mean 0 and deviation 1 over ImageNet."""
    if pictures.shape[1:3] != (224, 224):
        pictures = resized(pictures, 224, 224)
    return _scaled(pictures, 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def caffe(pictures: Pictures) -> Input:
    """Returns [N, H, W, 3] BGR, minus the mean of each colour, on the scale of 0 to 255.

    opennsfw's package also sends each crop through JPEG again, to match the network's first
    pipeline in Caffe; this is left out here.
    """
    return pictures[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)


def signed_rgb(pictures: Pictures) -> Input:
    """Returns RGB from -1 to 1."""
    return _scaled(pictures, 127.5, (1, 1, 1), (1, 1, 1))


def signed_bgr(pictures: Pictures) -> Input:
    """Returns BGR from -1 to 1."""
    return signed_rgb(pictures[..., ::-1])


def unit_rgb_320(pictures: Pictures) -> Input:
    """Returns RGB at 320x320 from 0 to 1."""
    return _scaled(resized(pictures, 320, 320), 255, (0, 0, 0), (1, 1, 1))


def centernet(pictures: Pictures) -> Input:
    """Returns BGR, each colour at mean 0 and deviation 1 over COCO."""
    mean, deviation = (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)
    return _scaled(pictures[..., ::-1], 255, mean, deviation)


def mtcnn_64(pictures: Pictures) -> Input:
    """Returns [N, W, H, 3] RGB at 64x64 from -1 to 1, transposed as in Matlab."""
    return _mtcnn(resized(pictures, 64, 64))


def mtcnn_24(pictures: Pictures) -> Input:
    """Returns [N, W, H, 3] RGB at 24x24 from -1 to 1, transposed as in Matlab."""
    return _mtcnn(resized(pictures, 24, 24))


def _mtcnn(pictures: Pictures) -> Input:
    scaled = (pictures.astype(np.float32) - np.float32(127.5)) / 128
    return np.ascontiguousarray(scaled.transpose(0, 2, 1, 3))


def _scaled(
    pictures: Pictures,
    unit: float,
    mean: tuple[float, float, float],
    deviation: tuple[float, float, float],
) -> Input:
    """Returns ``(picture / unit - mean) / deviation``, [N, H, W, 3] as [N, 3, H, W]."""
    numbers = pictures.astype(np.float32) / np.float32(unit)
    scaled = (numbers - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)

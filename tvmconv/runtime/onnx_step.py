"""A step of a run that onnxruntime computes, which is not imported before such a step is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvmconv.errors import ArtifactError, TargetError, TvmconvError, first_line


@dataclass(frozen=True, eq=False)
class OnnxStep:
    """A part of a network as an ONNX model."""

    #: Names of the tensors that it reads and gives, in order.
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: An ONNX file.
    model: bytes


class Session:
    """A step, loaded."""

    def __init__(self, step: OnnxStep, target: str) -> None:
        """target: for ``cuda`` onnxruntime's CUDA provider is used where it is installed.

        Raises `TargetError` where onnxruntime is not installed, `ArtifactError` for a model that
        it does not take.
        """
        try:
            from tvmconv.runtime.session import open_session
        except ImportError as error:
            raise TargetError(
                "a part of this network runs in onnxruntime, which is not installed",
                hint="pip install onnxruntime",
            ) from error
        self._step = step
        # Between two runs the other parts need the cores.
        config = {"session.intra_op.allow_spinning": "0"}
        try:
            self._session = open_session(step.model, config=config, cuda=target == "cuda")
        except Exception as error:  # its exceptions have no common base
            raise ArtifactError(
                "onnxruntime does not take a part of this network",
                note=first_line(error),
                hint="build it again, with the version of onnxruntime that runs it",
            ) from error

    def run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the step's results by name. arrays: NumPy's, at least those that the step reads.

        Raises `TvmconvError` if onnxruntime fails, which depends on the values then.
        """
        fed = {name: arrays[name] for name in self._step.inputs}
        try:
            made = self._session.run(list(self._step.outputs), fed)
        except Exception as error:  # its exceptions have no common base
            raise TvmconvError(
                "onnxruntime could not run its part of this network",
                note=first_line(error),
                hint="does the model run in onnxruntime, given these inputs?",
            ) from error
        return dict(zip(self._step.outputs, made, strict=True))

"""Export of trained nets to ONNX with the TorchScript-based exporter."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 17
Axes = dict[str, dict[int, str]]


def export_onnx(
    net: nn.Module, example: Tensor, path: Path, axes: Axes, keep_batch_norm: bool
) -> None:
    """Write a net with one input and one output, replacing `path` in one step.

    Args:
        net: the trained net, in eval mode.
        example: a batch to trace with.
        path: the file to write.
        axes: symbolic axes of the input and then of the output; its keys name them.
        keep_batch_norm: leave BatchNormalization nodes and constants unfolded.
    """
    input_name, output_name = axes
    mode = torch.onnx.TrainingMode
    temporary = path.with_suffix(".tmp")
    torch.onnx.export(
        net,
        (example,),
        str(temporary),
        opset_version=OPSET,
        dynamo=False,
        input_names=[input_name],
        output_names=[output_name],
        dynamic_axes=axes,
        training=mode.PRESERVE if keep_batch_norm else mode.EVAL,
        do_constant_folding=not keep_batch_norm,
    )
    temporary.replace(path)

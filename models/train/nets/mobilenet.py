"""A small MobileNetV2 (inverted residuals, ReLU6) for 28x28 grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = ((1, 16, 1, 1), (4, 24, 2, 1), (4, 40, 3, 2), (4, 64, 2, 1))
"""Per stage: expansion factor, output channels, number of blocks, stride of the first."""


def conv_norm_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution without bias, its BatchNorm and a ReLU6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project by 1x1; skip where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = conv_norm_relu6(inputs, hidden, 1) if expansion != 1 else []
        layers += conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden)
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output for a batch of feature maps."""
        result = self.layers(features)
        return features + result if self.residual else result


class MobileNetV2(nn.Module):
    """Strided stem, inverted residual stages, 1x1 head, linear classifier."""

    def __init__(self, stem: int = 16, head: int = 160, classes: int = 10) -> None:
        super().__init__()
        layers = conv_norm_relu6(1, stem, 3, 2)
        channels = stem
        for expansion, outputs, repeats, first_stride in STAGES:
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(channels, outputs, stride, expansion))
                channels = outputs
        layers += conv_norm_relu6(channels, head, 1)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits for a batch of images."""
        pooled = self.pool(self.features(images))
        return self.classifier(torch.flatten(pooled, 1))

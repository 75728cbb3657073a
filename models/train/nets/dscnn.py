"""A depthwise-separable CNN over MFCC features."""

from __future__ import annotations

from torch import Tensor, nn


def separable(channels: int) -> list[nn.Module]:
    """Return a depthwise 3x3 and a pointwise convolution, each with BatchNorm and ReLU."""
    depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    layers: list[nn.Module] = []
    for conv in (depthwise, pointwise):
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return layers


class DSCNN(nn.Module):
    """Strided stem, separable blocks, global average pooling, linear classifier."""

    def __init__(self, channels: int = 48, blocks: int = 4, classes: int = 10) -> None:
        super().__init__()
        stem = nn.Conv2d(1, channels, (10, 4), (2, 2), (5, 1), bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(blocks):
            layers += separable(channels)
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
        self.layers = nn.Sequential(*layers, *pool, nn.Linear(channels, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return class logits for features (batch, frames, coefficients)."""
        return self.layers(features.unsqueeze(1))

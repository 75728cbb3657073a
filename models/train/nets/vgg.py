"""A small VGG-like network for 28x28 grey images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = (32, 64, 128)
"""Channels per stage; each stage halves the sides: 28, 14, 7, 3."""


def double_conv(inputs: int, outputs: int) -> list[nn.Module]:
    """Return two 3x3 convolutions, each with BatchNorm and ReLU, and a max pool."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)]


class VGG(nn.Module):
    """Plain stages of two 3x3 convolutions, linear classifier over the flattened 3x3 map."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *STAGES), STAGES, strict=False):
            layers += double_conv(inputs, outputs)
        self.features = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        self.classifier = nn.Linear(STAGES[-1] * 3 * 3, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits for a batch of images."""
        maps = torch.flatten(self.features(images), 1)
        return self.classifier(self.drop(maps))

"""A small U-Net with two levels, for images whose sides are multiples of four."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, 1, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder with transposed convolutions, skip connections by concatenation."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down1 = double_conv(3, width)
        self.down2 = double_conv(width, 2 * width)
        self.bottom = double_conv(2 * width, 4 * width)
        self.rise2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up2 = double_conv(4 * width, 2 * width)
        self.rise1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up1 = double_conv(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return one foreground logit for each pixel."""
        fine = self.down1(images)
        middle = self.down2(functional.max_pool2d(fine, 2))
        coarse = self.bottom(functional.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([self.rise2(coarse), middle], dim=1))
        fine = self.up1(torch.cat([self.rise1(middle), fine], dim=1))
        return self.head(fine)

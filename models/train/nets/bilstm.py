"""A bidirectional LSTM over MFCC features."""

from __future__ import annotations

from torch import Tensor, nn


class BiLSTM(nn.Module):
    """One bidirectional LSTM layer, mean over time, linear classifier."""

    def __init__(self, coefficients: int = 10, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(coefficients, hidden, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return class logits for features (batch, frames, coefficients)."""
        states, _ = self.lstm(features)
        return self.classifier(states.mean(dim=1))

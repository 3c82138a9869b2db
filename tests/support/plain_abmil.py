"""ABMIL's protocol on a classical set in plain PyTorch, with nothing of milbench: one bag a step, one model at a time.

    python tests/support/plain_abmil.py path/to/musk1.npz 100

prints the mean accuracy over 5 x 10 folds and the standard deviation of the repetitions' means; the learning rate and
the weight decay may follow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


class PlainABMIL(nn.Module):
    """sigmoid(c' z), z = sum_i softmax_i(w' tanh(V h_i)) h_i, with h of three ReLU layers and dropout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((dim, 256), (256, 128), (128, 64)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.5)]
        self.features = nn.Sequential(*layers)
        self.attention = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1))
        self.classifier = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.features(x)
        weights = torch.softmax(self.attention(h).T, dim=1)
        return self.classifier(weights @ h).squeeze()


def cross_validate(
    file: Path, epochs: int, lr: float = 5e-4, weight_decay: float = 5e-3, repetitions: int = 5
) -> np.ndarray:
    """Return the accuracy of every fold, (repetitions, 10), of the last epoch's models."""
    data = np.load(file, allow_pickle=False)
    x, offsets, labels, folds = (data[k] for k in ("features", "bag_offsets", "bag_label", "folds"))
    accuracy = np.zeros((repetitions, 10))
    for repetition in range(repetitions):
        for fold in range(10):
            torch.manual_seed(100 * repetition + fold)
            test = np.flatnonzero(folds[repetition] == fold)
            train = np.flatnonzero(folds[repetition] != fold)
            rows = np.concatenate([x[offsets[b] : offsets[b + 1]] for b in train])
            scale = rows.std(axis=0)
            scaled = torch.from_numpy((x - rows.mean(axis=0)) / np.where(scale > 0, scale, 1)).float()
            bags = [scaled[offsets[b] : offsets[b + 1]] for b in range(len(labels))]
            model = PlainABMIL(x.shape[1])
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
            for _ in range(epochs):
                for b in train[torch.randperm(len(train)).numpy()]:
                    optimizer.zero_grad()
                    loss = nn.functional.binary_cross_entropy_with_logits(
                        model(bags[b]), torch.tensor(float(labels[b]))
                    )
                    loss.backward()
                    optimizer.step()
            model.eval()
            with torch.no_grad():
                right = [float(model(bags[b]) > 0) == labels[b] for b in test]
            accuracy[repetition, fold] = np.mean(right)
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)
    accuracies = cross_validate(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
    print(f"{accuracies.mean():.3f} +- {accuracies.mean(axis=1).std(ddof=1):.3f}")

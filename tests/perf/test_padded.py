"""What padding small bags into one batch is worth to TransMIL, against streaming them one by one."""

import pytest
import torch
from support.interleave import compare

import milbench
from milbench.nn.nystrom import padded as medium

pytestmark = pytest.mark.perf


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("landmarks", "rows", "train", "at_least"),
    [(16, 100, True, 1.7), (64, 100, True, 1.4), (64, 100, False, 1.1), (64, 310, True, 1.1), (64, 310, False, 0.9)],
)
def test_bags_above_the_landmarks(benchmark, landmarks, rows, train, at_least):
    """Four bags of 64 features; 310 rows are near the most that is padded."""
    torch.manual_seed(0)
    model = milbench.create(f"transmil[dim=64,heads=4,landmarks={landmarks}]", 64, 2).train(train)
    bags = milbench.Bags.pack([torch.randn(rows + n, 64) for n in (-10, 0, 10, 14)])

    def padded():
        if not train:
            with torch.inference_mode():
                model(bags)
            return
        model.zero_grad()
        model(bags).logits.square().sum().backward()

    def streamed():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(medium, "BAG", 0)
            padded()

    assert compare(benchmark, padded, streamed, rounds=9) >= at_least

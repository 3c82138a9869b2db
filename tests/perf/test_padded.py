"""What padding small bags into one batch is worth to TransMIL, against streaming them one by one."""

import pytest
import torch
from support.interleave import compare

import milbench
from milbench.nn import medium

pytestmark = pytest.mark.perf


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("landmarks", "at_least"), [(16, 1.7), (64, 1.4)])
def test_a_step_on_bags_above_the_landmarks(benchmark, landmarks, at_least):
    """Four bags of 90 to 120 instances of 64 features."""
    torch.manual_seed(0)
    model = milbench.create(f"transmil[dim=64,heads=4,landmarks={landmarks}]", 64, 2).train()
    bags = milbench.Bags.pack([torch.randn(n, 64) for n in (90, 100, 110, 120)])

    def step():
        model.zero_grad()
        model(bags).logits.square().sum().backward()

    def streamed():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(medium, "BAG", 0)
            step()

    assert compare(benchmark, step, streamed, rounds=9) >= at_least

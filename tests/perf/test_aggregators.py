"""What the exact identities are worth, against the authors' form on the same machine in the same minute.

The bounds are about half of what two quiet cores show: they fail when an identity is lost, not when a core is busy.
"""

import pytest
import torch
from support.interleave import compare
from support.transmil import AuthorsTransMIL

import milbench

pytestmark = pytest.mark.perf


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pair(dim=1024):
    torch.manual_seed(0)
    ours, theirs = milbench.create("transmil", in_dim=dim), AuthorsTransMIL(dim)
    ours.load_authors_state(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("n", "at_least"), [(10, 8), (64, 5), (10_000, 1.2)])
def test_transmil_inference(benchmark, n, at_least):
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    x = torch.randn(n, 1024)
    bags = milbench.Bags.pack([x])
    with torch.inference_mode():
        ratio = compare(benchmark, lambda: ours(bags), lambda: theirs(x), rounds=5 if n > 1000 else 11)
    assert ratio >= at_least


@pytest.mark.parametrize(("n", "at_least"), [(10, 8), (64, 5)])
def test_transmil_training(benchmark, n, at_least):
    ours, theirs = pair()
    x, y = torch.randn(n, 1024), torch.ones(1, dtype=torch.long)
    bags = milbench.Bags.pack([x])
    ratio = compare(
        benchmark,
        lambda: ours.loss(ours(bags), y).backward(),
        lambda: torch.nn.functional.cross_entropy(theirs(x), y).backward(),
        rounds=9,
    )
    assert ratio >= at_least


def test_abmil_batched_against_one_by_one(benchmark):
    torch.manual_seed(0)
    model = milbench.create("abmil", in_dim=166)
    xs = [torch.randn(5 + i % 36, 166) for i in range(64)]
    y = torch.arange(64) % 2
    together, alone = milbench.Bags.pack(xs), [milbench.Bags.pack([x]) for x in xs]

    def one_by_one():
        for i, bags in enumerate(alone):
            model.loss(model(bags), y[i : i + 1]).backward()

    assert compare(benchmark, lambda: model.loss(model(together), y).backward(), one_by_one) >= 5

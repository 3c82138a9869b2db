"""What the exact identities are worth, against the authors' form on the same machine in the same minute.

The bounds are about half of what two quiet cores show: they fail when an identity is lost, not when a core is busy.
"""

import pytest
import torch
from support.interleave import compare
from support.transmil import AuthorsTransMIL

import milbench
from milbench.measure.memory import PeakMemory
from milbench.nn import linear, segment_dot

pytestmark = pytest.mark.perf


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cpu_has_bf16():
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def pair(dim=1024):
    torch.manual_seed(0)
    ours, theirs = milbench.create("transmil", in_dim=dim), AuthorsTransMIL(dim)
    ours.load_authors_state(theirs.state_dict())
    return ours, theirs


def few(n):
    """Rounds that a bag of this size can have, and calls before each timed one."""
    return {"rounds": 5 if n > 1000 else 11, "again": 0 if n > 1000 else 2}


@pytest.mark.parametrize(("n", "at_least"), [(10, 15), (64, 7), (10_000, 1.6)])
def test_transmil_inference(benchmark, n, at_least):
    ours, theirs = pair()
    ours.eval(), theirs.eval()
    x = torch.randn(n, 1024)
    bags = milbench.Bags.pack([x])
    with torch.inference_mode():
        ratio = compare(benchmark, lambda: ours(bags), lambda: theirs(x), **few(n))
    assert ratio >= at_least


@pytest.mark.parametrize(("n", "at_least"), [(10, 15), (64, 7), (10_000, 1.5)])
def test_transmil_training(benchmark, n, at_least):
    ours, theirs = pair()
    x, y = torch.randn(n, 1024), torch.ones(1, dtype=torch.long)
    bags = milbench.Bags.pack([x])

    def train_ours():
        ours.zero_grad()
        ours.loss(ours(bags), y).backward()

    def train_theirs():
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(theirs(x), y).backward()

    assert compare(benchmark, train_ours, train_theirs, **few(n)) >= at_least


@pytest.mark.parametrize(("mode", "at_most"), [("infer", 1 / 2.5), ("train", 1 / 2.2)])
def test_transmil_peak_memory(mode, at_most):
    """Against the authors' form at n = 10,000: the second call's peak over what was resident before."""
    x, y = torch.randn(10_000, 1024), torch.ones(1, dtype=torch.long)
    ours, theirs = (model.train(mode == "train") for model in pair())
    bags = milbench.Bags.pack([x])

    def peak(logits, loss):
        def work():
            with torch.inference_mode(mode == "infer"):
                out = logits()
                if mode == "train":
                    loss(out).backward()

        work()
        with PeakMemory() as reading:
            work()
        return reading.reading.peak_bytes

    mine = peak(lambda: ours(bags), lambda out: ours.loss(out, y))
    other = peak(lambda: theirs(x), lambda out: torch.nn.functional.cross_entropy(out, y))
    assert mine <= at_most * other


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor emulates bf16: autocast is slower there by nature")
def test_transmil_in_bf16(benchmark):
    ours, _ = pair()
    ours.eval()
    bags = milbench.Bags.pack([torch.randn(10_000, 1024)])

    def half():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours(bags).logits

    with torch.inference_mode():
        torch.testing.assert_close(half().float(), ours(bags).logits, atol=0.02, rtol=0.05)
        assert compare(benchmark, half, lambda: ours(bags), rounds=5) >= 1.1


@pytest.mark.parametrize(("spec", "at_most"), [("abmil", 2.4), ("dsmil", 2.5), ("clam_sb", 1.9), ("clam_mb", 1.9)])
def test_attention_pooling_costs_little_more_than_its_products(benchmark, spec, at_most):
    """Against its mandatory operations at the rate of the same library's product in the same minute, n = 10,000."""
    model = milbench.create(spec, in_dim=1024).eval()
    bags, w = milbench.Bags.pack([torch.randn(10_000, 1024)]), torch.randn(512, 1024)
    with torch.inference_mode():
        ratio = compare(benchmark, lambda: model(bags), lambda: linear(bags.x, w), rounds=9)
    gemm = 2 * 10_000 * 1024 * 512
    assert gemm / model.matrix_flops(10_000) / ratio <= at_most


@pytest.mark.parametrize("spec", ["mean", "max"])
def test_pooling_reads_at_the_speed_of_memory(benchmark, spec):
    model = milbench.create(spec, in_dim=1024).eval()
    bags = milbench.Bags.pack([torch.randn(50_000, 1024)])
    with torch.inference_mode():
        assert compare(benchmark, lambda: model(bags), bags.x.max, rounds=9) >= 0.55


def test_abmil_batched_against_one_by_one(benchmark):
    torch.manual_seed(0)
    model = milbench.create("abmil", in_dim=166)
    xs = [torch.randn(5 + i % 36, 166) for i in range(64)]
    y = torch.arange(64) % 2
    together, alone = milbench.Bags.pack(xs), [milbench.Bags.pack([x]) for x in xs]

    def one_by_one():
        for i, bags in enumerate(alone):
            model.loss(model(bags), y[i : i + 1]).backward()

    assert compare(benchmark, lambda: model.loss(model(together), y).backward(), one_by_one, again=1) >= 5


def test_products_with_the_own_bags_vector(benchmark):
    """What DSMIL's likeness and the gradient of every weighted sum are, against gathering a vector for each row."""
    bags = milbench.Bags(torch.zeros(8000, 1), [500] * 16)
    values, vectors = torch.randn(8000, 512), torch.randn(16, 1, 512)

    def gathered():
        return torch.einsum("ne,nhe->nh", values, vectors[bags.index])

    with torch.inference_mode():
        assert compare(benchmark, lambda: segment_dot(values, vectors, bags), gathered, rounds=11) >= 2

"""The closed forms of what no forward pass avoids, against what the implementations do."""

import pytest
import torch

import milbench
from milbench.measure.flops import count_flops


def counted(spec, n, classes):
    model = milbench.create(spec, in_dim=96, n_classes=classes).eval()
    bags = milbench.Bags.pack([torch.randn(n, 96)])
    with torch.inference_mode():
        return model.matrix_flops(n), count_flops(lambda: model(bags))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "spec",
    ["mean", "max", "max_instance", "abmil", "abmil[gated=true]", "abmil[embed_dim=64-32]", "dsmil", "clam_sb",
     "clam_sb[size=big]", "clam_mb[subtyping=true]"],
)  # fmt: skip
def test_pooling_does_exactly_the_products_it_must(spec, classes):
    for n in (3, 17, 5000):
        stated, done = counted(spec, n, classes)
        # CLAM fills its instance loss up to k places when a bag has fewer.
        assert stated < done if n < 8 and spec.startswith("clam") else stated == done


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("ppeg", ["none", "3", "7", "pyramid"])
def test_transmil_does_little_more_than_it_must(ppeg, layers):
    """More than stated: the last layer's scores twice, a convolution as a band, the pseudo-inverse's last products."""
    stated, done = counted(f"transmil[ppeg={ppeg},layers={layers},dim=128,heads=4,landmarks=64]", 3000, 2)
    assert stated < done < 1.35 * stated


@pytest.mark.parametrize("layers", [1, 2])
def test_transmils_mean_costs_its_last_layer_as_the_ones_before(layers):
    size = "dim=128,heads=4,landmarks=64"
    stated, done = counted(f"transmil[readout=mean,layers={layers},{size}]", 3000, 2)
    assert stated < done < 1.35 * stated
    more, fewer = (counted(f"transmil[layers={k},{size}]", 3000, 2)[0] for k in (layers + 1, layers))
    deeper = counted(f"transmil[readout=mean,layers={layers + 1},{size}]", 3000, 2)[0]
    assert deeper - stated == more - fewer
    assert counted(f"transmil[square=zeros,layers={layers},{size}]", 3000, 2)[0] == fewer


def test_a_layer_more_costs_what_its_products_cost():
    one, two = (counted(f"transmil[layers={k}]", 3000, 2)[0] for k in (1, 2))
    tokens, m, dim, heads = 55**2 + 1, 256, 512, 8
    rows = tokens * dim * (4 * dim + 4 * m + 33)
    core = heads * m * m * (m + 64) + 5 * 2 * heads * m**3 + dim * (6 * 3 * m * m + m * m) + 2 * m * dim * dim
    assert two - one == 2 * (rows + core)


def test_short_bags_of_transmil_state_nothing():
    assert counted("transmil", 100, 2)[0] is None


def test_every_built_in_method_states_its_products():
    for name in milbench.list_aggregators():
        model = milbench.create(name, in_dim=32, n_classes=2)
        assert (model.matrix_flops(5000) or 0) > 0

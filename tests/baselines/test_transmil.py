"""TransMIL against its authors' form in float64, for every variant, and parameter counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transmil import AuthorsTransMIL

import milbench


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", 2_672_146), ("ppeg=none", 2_628_114), ("ppeg=3", 2_633_234), ("ppeg=7", 2_653_714), ("layers=1", 1_621_770)],
)
def test_parameter_counts(options, expected):
    model = milbench.create(f"transmil[{options}]", in_dim=1024, n_classes=2)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def pair(ppeg="pyramid", layers=2, landmarks=16, iterations=6, value_conv=True):
    """Our model and the authors' form with the same float64 parameters; landmark counts even, as the package asks."""
    torch.manual_seed(0)
    kind = f"ppeg={ppeg},layers={layers},landmarks={landmarks},pinv_iterations={iterations}"
    kind += f",value_conv={value_conv},dim=32,heads=2"
    ours = milbench.create(f"transmil[{kind}]", in_dim=12, n_classes=3).double().eval()
    theirs = AuthorsTransMIL(
        12,
        3,
        ppeg=ppeg,
        layers=layers,
        heads=2,
        landmarks=landmarks,
        pinv_iterations=iterations,
        value_conv=value_conv,
        dim=32,
    )
    theirs = theirs.double().eval()
    ours.load_authors_state(theirs.state_dict())
    return ours, theirs


def compare(ours, theirs, n):
    x = torch.randn(n, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ya, yb = ours(milbench.Bags.pack([a])).logits, theirs(b)
    torch.testing.assert_close(ya, yb, atol=1e-9, rtol=1e-9)
    weights = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    ours.zero_grad(), theirs.zero_grad()
    (ya * weights).sum().backward()
    (yb * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-6)
    # What the last layer does not read has no gradient in either; where the authors' form has exact zeros ours may
    # have none.
    names = {"embed.": "_fc1.", "head.": "_fc2.", "ppeg.": "pos_layer.", "blocks.": "layer"}
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        prefix = next((p for p in names if name.startswith(p)), None)
        wanted = reference[names[prefix] + name[len(prefix) :] if prefix else name].grad
        got = parameter.grad
        assert got is not None, name
        torch.testing.assert_close(got, wanted, atol=1e-7, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("ppeg", ["none", "3", "5", "7", "pyramid"])
def test_every_variant_equals_the_authors_form_in_float64(ppeg, layers):
    ours, theirs = pair(ppeg, layers)
    for n in (1, 7, 9, 15, 16, 17, 40, 130):  # below, at and above the 16 landmarks
        compare(ours, theirs, n)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200), landmarks=st.sampled_from([4, 10, 32, 64]), iterations=st.integers(1, 7), conv=st.booleans()
)
def test_any_length_equals_the_authors_form_in_float64(n, landmarks, iterations, conv):
    compare(*pair("pyramid", 2, landmarks, iterations, conv), n)


def test_a_mixed_batch_equals_its_bags_alone():
    ours, _ = pair()
    xs = [
        torch.randn(n, 12, dtype=torch.float64) * scale
        for n, scale in ((1, 1), (200, 3), (9, 0.1), (15, 10), (64, 1), (4, 5))
    ]
    together = ours(milbench.Bags.pack(xs), attention=True)
    alone = [ours(milbench.Bags.pack([x]), attention=True) for x in xs]
    torch.testing.assert_close(together.logits, torch.cat([o.logits for o in alone]), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(together.attention, torch.cat([o.attention for o in alone]), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("n", [9, 200])
def test_attention_is_the_class_tokens_row(n):
    """Without convolution, projection and residual the class token's output is its weights times the values."""
    ours, _ = pair(ppeg="none", layers=1, value_conv=False)
    layer = ours.blocks["1"].attn
    layer.to_out = torch.nn.Identity()
    tokens = torch.randn(n, 32, dtype=torch.float64)
    values = torch.nn.functional.linear(tokens, layer.to_qkv.weight[64:]).view(n, 2, 16)
    if n <= 16:
        out, weights = layer.short_first(tokens[None], torch.tensor([n]), weights=True)
        weights = weights[0]
    else:
        out, token, weights = layer.long_first(tokens)
        torch.testing.assert_close(token, tokens[:1])
    torch.testing.assert_close(out.view(2, 16), torch.einsum("nh,nhd->hd", weights, values))


@pytest.mark.parametrize("spec", ["mean", "max", "abmil", "dsmil", "clam_sb", "transmil[dim=32,heads=2,landmarks=16]"])
@pytest.mark.parametrize("n", [10, 300])
def test_a_model_in_bfloat16_predicts(spec, n):
    torch.manual_seed(0)
    model = milbench.create(spec, in_dim=24).eval()
    x = torch.randn(n, 24)
    with torch.no_grad():
        wanted = model.probabilities(model(milbench.Bags.pack([x])))
        got = model.bfloat16().probabilities(model(milbench.Bags.pack([x])))
    torch.testing.assert_close(got, wanted, atol=0.05, rtol=0)

"""TransMIL against its authors' form in float64, for every variant, and parameter counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused
from support.transmil import AuthorsTransMIL

import milbench
from milbench.nn.nystrom import attention as nystrom
from milbench.nn.nystrom import padded as medium


@pytest.fixture(params=["padded", "streamed"], autouse=True)
def way(request, monkeypatch):
    """Compute a bag of more tokens than landmarks in a padded batch where it is small enough, or never."""
    if request.param == "streamed":
        monkeypatch.setattr(medium, "BAG", 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", 2_672_146), ("ppeg=none", 2_628_114), ("ppeg=3", 2_633_234), ("ppeg=7", 2_653_714), ("layers=1", 1_621_770)],
)
def test_parameter_counts(options, expected):
    model = milbench.create(f"transmil[{options}]", in_dim=1024, n_classes=2)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def pair(ppeg="pyramid", layers=2, landmarks=16, iterations=6, value_conv=True, heads=2, **options):
    """Our model and the authors' form with the same float64 parameters; landmark counts even, as the package asks."""
    torch.manual_seed(0)
    kind = f"ppeg={ppeg},layers={layers},landmarks={landmarks},pinv_iterations={iterations}"
    kind += f",value_conv={value_conv},dim=32,heads={heads}"
    kind += "".join(f",{name}={value}" for name, value in options.items())
    ours = milbench.create(f"transmil[{kind}]", in_dim=12, n_classes=3).double().eval()
    theirs = AuthorsTransMIL(
        12,
        3,
        ppeg=ppeg,
        layers=layers,
        heads=heads,
        landmarks=landmarks,
        pinv_iterations=iterations,
        value_conv=value_conv,
        dim=32,
        **options,
    )
    theirs = theirs.double().eval()
    ours.load_authors_state(theirs.state_dict())
    return ours, theirs


def compare(ours, theirs, n):
    x = torch.randn(n, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ya, yb = ours(milbench.Bags.pack([a])).logits, theirs(b)
    torch.testing.assert_close(ya, yb, atol=1e-9, rtol=1e-9)
    same_gradients(ours, theirs, ya, yb, [a], [b])


def same_gradients(ours, theirs, ya, yb, a, b):
    """Compare gradients of a sum of logits, (B, 3), at the bags' features and at all parameters."""
    weights = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    weights = weights * torch.arange(1.0, len(ya) + 1, dtype=torch.float64)[:, None]
    ours.zero_grad(), theirs.zero_grad()
    (ya * weights).sum().backward()
    (yb * weights).sum().backward()
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-8, rtol=1e-6)
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
        for n, scale in ((1, 1), (200, 3), (9, 0.1), (15, 10), (64, 1), (4, 5), (50, 1), (180, 0.1), (41, 10))
    ]
    together = ours(milbench.Bags.pack(xs), attention=True)
    alone = [ours(milbench.Bags.pack([x]), attention=True) for x in xs]
    torch.testing.assert_close(together.logits, torch.cat([o.logits for o in alone]), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(together.attention, torch.cat([o.attention for o in alone]), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("row", [0, 3])
def test_what_is_not_finite_stays_in_its_bag(row):
    """Bags of 5 to 9 and of 40 to 90 rows, each in a padded batch with others; padding is of no other bag's rows."""
    ours, _ = pair(heads=4)
    xs = [torch.randn(n, 12, dtype=torch.float64) for n in (5, 9, 40, 62, 90)]
    wanted = ours(milbench.Bags.pack(xs)).logits
    for i in range(len(xs)):
        spoilt = [x.clone() for x in xs]
        spoilt[i][row] = torch.nan
        actual = ours.pool(milbench.Bags.pack(spoilt), False).logits
        assert actual[i].isnan().all()
        others = [j for j in range(len(xs)) if j != i]
        torch.testing.assert_close(actual[others], wanted[others], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_company_is_as_near_to_fp32_as_alone(dtype):
    """Alone a bag above the landmarks is streamed, whose residual stream stays in fp32; so must a padded batch's."""
    torch.manual_seed(0)
    model = milbench.create("transmil[dim=128,heads=4,landmarks=64]", in_dim=64).eval()
    xs = [torch.randn(n, 64) for n in (150, 180, 200, 220)]
    with torch.no_grad():
        exact = model(milbench.Bags.pack(xs)).embedding
        with torch.autocast("cpu", dtype=dtype):
            together = model(milbench.Bags.pack(xs)).embedding
            alone = torch.cat([model(milbench.Bags.pack([x])).embedding for x in xs])
    error, theirs = ((actual - exact).square().mean().sqrt() for actual in (together, alone))
    assert error <= 1.5 * theirs


#: What is not the authors', one at a time and together.
OPTIONS = [
    {"readout": "mean"},
    {"square": "zeros"},
    {"order": "raster"},
    {"readout": "mean", "square": "zeros"},
    {"readout": "mean", "square": "zeros", "order": "raster"},
]
SPELLED = [",".join(f"{name}={value}" for name, value in options.items()) for options in OPTIONS]
LENGTHS = (5, 300, 1, 30, 12, 700)  # below and above 16 landmarks, every one short of a square or a square of one


def scattered(lengths, seed=0):
    """Float64 features, and places on a grid too small for them: some rows share theirs and stay as stored."""
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(n, 12, dtype=torch.float64, generator=generator) for n in lengths]
    return xs, [torch.randint(0, 8, (n, 2), generator=generator) for n in lengths]


#: With 256 landmarks bags of 5 to 12 rows and of 30 are in padded batches of their own; the products of its float64
#: reference are slow, so two layers have them with all options together.
_MORE = (
    pytest.mark.slow(covered_by="baselines/test_transmil.py::test_options_equal_their_plain_form_in_ragged_company"),
)
SHAPES = [
    pytest.param(
        options,
        landmarks,
        layers,
        id=f"{spelled}-{landmarks}-{layers}",
        marks=() if (landmarks, layers) == (16, 2) or options is OPTIONS[-1] else _MORE,
    )
    for options, spelled in zip(OPTIONS, SPELLED, strict=True)
    for landmarks, layers in ((16, 1), (16, 2), (256, 1), (256, 2))
    if (landmarks, layers) != (256, 2) or options is OPTIONS[-1]
]


@pytest.mark.parametrize(("options", "landmarks", "layers"), SHAPES)
def test_options_equal_their_plain_form_in_ragged_company(options, landmarks, layers):
    ours, theirs = pair(layers=layers, landmarks=landmarks, heads=4, **options)
    xs, places = scattered(LENGTHS)
    a, b = ([x.clone().requires_grad_() for x in xs] for _ in range(2))
    bags = milbench.Bags.pack(a, places)
    ya = ours(bags).logits
    yb = torch.cat([theirs(x, at) for x, at in zip(b, places, strict=True)])
    torch.testing.assert_close(ya, yb, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(ours(bags).logits, yb, atol=1e-9, rtol=1e-9)  # written over the tokens
    same_gradients(ours, theirs, ya, yb, a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=SPELLED)
@pytest.mark.parametrize("ppeg", ["none", "7"])
def test_options_equal_their_plain_form_without_the_pyramid(options, ppeg):
    ours, theirs = pair(ppeg=ppeg, value_conv=False, **options)
    xs, places = scattered((7, 16, 50))
    got = ours(milbench.Bags.pack(xs, places)).logits
    torch.testing.assert_close(
        got, torch.cat([theirs(*bag) for bag in zip(xs, places, strict=True)]), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("options", OPTIONS, ids=SPELLED)
def test_options_change_the_prediction(options):
    """Each does something: on bags that are no square and whose rows are stored in another order."""
    plain, _ = pair()
    xs, places = scattered((11, 40))
    bags = milbench.Bags.pack(xs, places)
    assert ((pair(**options)[0](bags).logits - plain(bags).logits).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("options", [{}, {"square": "zeros"}])
def test_sorted_rows_are_what_storage_order_is_given(options):
    """Raster order on shuffled rows: logits of sorted ones, attention where its patch is stored."""
    stored, _ = pair(**options)
    sorting, _ = pair(order="raster", **options)
    xs, _ = scattered((9, 60, 23))
    grids = [torch.stack([torch.arange(len(x)) % 7, torch.arange(len(x)) // 7], dim=1) - 3 for x in xs]
    wanted = stored(milbench.Bags.pack(xs), attention=True)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(len(x), generator=generator) for x in xs]
    got = sorting(
        milbench.Bags.pack(
            [x[o] for x, o in zip(xs, orders, strict=True)], [g[o] for g, o in zip(grids, orders, strict=True)]
        ),
        attention=True,
    )
    torch.testing.assert_close(got.logits, wanted.logits, atol=1e-12, rtol=1e-12)
    lengths = [len(x) for x in xs]
    for mine, row, order in zip(got.attention.split(lengths), wanted.attention.split(lengths), orders, strict=True):
        torch.testing.assert_close(mine, row[order], atol=1e-12, rtol=1e-12)


def test_raster_order_asks_for_coordinates():
    with refused("method-unsupported"):
        pair(order="raster")[0](milbench.Bags.pack([torch.randn(9, 12)]))


def test_attention_of_the_mean_is_uniform():
    xs, _ = scattered((9, 60))
    out = pair(readout="mean", heads=4)[0](milbench.Bags.pack(xs), attention=True)
    assert out.attention.shape == (69, 4)
    torch.testing.assert_close(out.attention[:, 2], torch.tensor([1 / 9] * 9 + [1 / 60] * 60, dtype=torch.float64))


@pytest.mark.parametrize("n", [7, 40])
def test_a_zero_in_the_square_owns_no_attention(n):
    """The class token's weights on its patches alone, as they are in the last layer, normalised among themselves."""
    ours, _ = pair(ppeg="none", layers=1, value_conv=False, square="zeros")
    x = torch.randn(n, 12, dtype=torch.float64)
    side = math.isqrt(n - 1) + 1
    h = torch.cat([ours.cls_token[0], ours.embed(x), torch.zeros(side * side - n, 32, dtype=torch.float64)])
    block = ours.blocks["1"]
    positive = block.attn.matrix(block.norm(h))[:, 0, 1 : 1 + n].clamp(min=0)
    got = ours(milbench.Bags.pack([x]), attention=True).attention
    torch.testing.assert_close(got, (positive / positive.sum(dim=1, keepdim=True)).T, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("n", [9, 200])
def test_attention_is_the_class_tokens_row(n):
    """Without convolution, projection and residual the class token's output is its weights times the values."""
    ours, _ = pair(ppeg="none", layers=1, value_conv=False)
    layer = ours.blocks["1"].attn
    layer.to_out = torch.nn.Identity()
    tokens = torch.randn(n, 32, dtype=torch.float64)
    values = torch.nn.functional.linear(tokens, layer.to_qkv.weight[64:]).view(n, 2, 16)
    if n <= 16 or layer.room(n):
        out, weights = layer.batch_first(tokens[None], torch.tensor([n]))
        weights = weights[0]
    else:
        out, token, weights = layer.long_first(tokens)
        torch.testing.assert_close(token, tokens[:1])
    torch.testing.assert_close(out.view(2, 16), torch.einsum("nh,nhd->hd", weights, values))


@pytest.mark.parametrize("spec", ["mean", "max", "abmil", "dsmil", "clam_sb", "transmil[dim=32,heads=2,landmarks=16]",
                                  "transmil[dim=32,heads=2,landmarks=16,readout=mean]"])  # fmt: skip
@pytest.mark.parametrize("n", [10, 300])
def test_a_model_in_bfloat16_predicts(spec, n):
    torch.manual_seed(0)
    model = milbench.create(spec, in_dim=24).eval()
    x = torch.randn(n, 24)
    with torch.no_grad():
        wanted = model.probabilities(model(milbench.Bags.pack([x])))
        got = model.bfloat16().probabilities(model(milbench.Bags.pack([x])))
    torch.testing.assert_close(got, wanted, atol=0.05, rtol=0)


def test_a_padded_batch_of_short_bags_is_bounded_and_its_size_changes_nothing(monkeypatch):
    layer = milbench.create("transmil", in_dim=8).blocks["1"].attn
    for rows in (5, 100, layer.landmarks):
        assert 1 <= layer.room(rows) <= 2**25 / (layer.heads * rows**2)
    ours, _ = pair()
    bags = milbench.Bags.pack([torch.randn(n, 12, dtype=torch.float64) for n in (9, 9, 9, 4, 16)])
    whole = ours(bags).logits
    monkeypatch.setattr(nystrom, "SHORT", 1)
    torch.testing.assert_close(ours(bags).logits, whole, atol=1e-12, rtol=1e-12)

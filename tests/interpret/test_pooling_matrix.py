"""Pooling matrices against closed forms, the explicit composition of TransMIL's factors, and methods made for it."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import assert_refusal, refused
from support.transmil import AuthorsTransMIL
from torch import nn
from typer.testing import CliRunner

import milbench
from milbench.aggregator import Aggregator
from milbench.bags import BagOutput
from milbench.config import Card
from milbench.errors import MilbenchError
from milbench.interpret.figures import matrix_figure
from milbench.interpret.pooling_matrix import DEFINITIONS, MOST, pooling_matrix
from milbench.registry import registry

DIM = 6


def setup(spec, n=9, n_classes=2, seed=0, dim=DIM):
    torch.manual_seed(seed)
    model = milbench.create(spec, in_dim=dim, n_classes=n_classes)
    x = torch.randn(n, dim, dtype=torch.float64)
    return model, milbench.Bags.pack([x]), x.numpy(), {k: v.double().numpy() for k, v in model.state_dict().items()}


def softmax(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


# --- closed forms of the founding methods ----------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 999))
def test_mean_has_a_constant_diagonal(n, seed):
    model, bags, _, _ = setup("mean", n, seed=seed)
    np.testing.assert_allclose(pooling_matrix(model, bags).matrix, np.eye(n) / n, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), n_classes=st.integers(2, 3), seed=st.integers(0, 999))
def test_max_instance_has_one_entry_a_score(n, n_classes, seed):
    model, bags, x, w = setup("max_instance", n, n_classes, seed)
    winners = (x @ w["score.weight"].T + w["score.bias"]).argmax(axis=0)
    actual = pooling_matrix(model, bags)
    np.testing.assert_allclose(np.diag(actual.matrix), np.bincount(winners, minlength=n) / len(winners), atol=1e-12)
    assert (np.count_nonzero(actual.components, axis=(1, 2)) == 1).all()
    assert actual.off_diagonal == 0


@settings(max_examples=10, deadline=None)
@given(n=st.integers(4, 20), seed=st.integers(0, 999))
def test_max_has_one_diagonal_entry_a_feature(n, seed):
    model, bags, x, _ = setup("max", n, seed=seed)
    actual = pooling_matrix(model, bags)
    one = np.zeros((DIM, n, n))
    one[np.arange(DIM), x.argmax(axis=0), x.argmax(axis=0)] = 1
    np.testing.assert_allclose(actual.components, one, atol=1e-12)
    np.testing.assert_allclose(actual.matrix, one.mean(axis=0), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), gated=st.booleans(), embed=st.booleans(), n_classes=st.integers(2, 3))
def test_abmil_has_its_attention_on_the_diagonal(n, gated, embed, n_classes):
    model, bags, h, w = setup(f"abmil[gated={gated},embed_dim={'7-5' if embed else 'none'}]", n, n_classes)
    for i in (0, 3) if embed else ():
        h = np.maximum(h @ w[f"embed.{i}.weight"].T + w[f"embed.{i}.bias"], 0)
    s = np.tanh(h @ w["score.v.weight"].T + w["score.v.bias"])
    if gated:
        s = s / (1 + np.exp(-(h @ w["score.u.weight"].T + w["score.u.bias"])))
    a = softmax(s @ w["score.w.weight"].T + w["score.w.bias"])[:, 0]
    np.testing.assert_allclose(pooling_matrix(model, bags).matrix, np.diag(a), atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_dsmil_has_the_likeness_to_the_critical_instance_on_the_diagonal(n_classes):
    model, bags, x, w = setup("dsmil", n_classes=n_classes)
    q = np.tanh(np.maximum(x @ w["q.0.weight"].T + w["q.0.bias"], 0) @ w["q.2.weight"].T + w["q.2.bias"])
    critical = (x @ w["instance.weight"].T + w["instance.bias"]).argmax(axis=0)
    u = softmax(q @ q[critical].T / math.sqrt(128))
    np.testing.assert_allclose(pooling_matrix(model, bags).matrix, np.diag(u.mean(axis=1)), atol=1e-9)


@pytest.mark.parametrize("spec", ["clam_sb", "clam_mb"])
def test_clam_has_the_mean_of_its_branches_on_the_diagonal(spec):
    model, bags, x, w = setup(spec, n_classes=3)
    h = np.maximum(x @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
    s = np.tanh(h @ w["score.v.weight"].T + w["score.v.bias"])
    s = s / (1 + np.exp(-(h @ w["score.u.weight"].T + w["score.u.bias"])))
    a = softmax(s @ w["score.w.weight"].T + w["score.w.bias"])
    actual = pooling_matrix(model, bags)  # in eval mode, whatever the model's: dropout would show
    np.testing.assert_allclose(actual.matrix, np.diag(a.mean(axis=1)), atol=1e-9)
    assert len(actual.components) == (3 if spec == "clam_mb" else 1)


@pytest.mark.parametrize("method", registry().names())
def test_only_correlated_methods_mix(method):
    model, bags, _, _ = setup(method, 12)
    actual = pooling_matrix(model, bags)
    assert actual.matrix.min() >= 0
    assert actual.matrix.sum() == pytest.approx(1)
    assert (actual.off_diagonal > 0.1) == (model.card.family == "correlated")
    assert actual.off_diagonal == pytest.approx(actual.matrix.sum() - np.trace(actual.matrix), abs=1e-12)


# --- TransMIL: the explicit composition, block by block -------------------------------------------------------------


def layer_blocks(layer, h):
    """One layer and its residual as (T, T, dim, dim) blocks and (T, dim) constants, the package's attention inside."""
    rows, dim = h.shape
    y = layer.norm(h)
    out, attention = layer.attn(y[None], return_attn=True)
    weights = attention[0][:, -rows:, -rows:].clone()
    if layer.attn.residual:
        kernel = layer.attn.res_conv.weight[:, 0, :, 0]
        for t in range(rows):
            for s in range(max(0, t - 16), min(rows, t + 17)):
                weights[:, t, s] += kernel[:, s - t + 16]
    heads = len(weights)
    w_v, w_o = layer.attn.to_qkv.weight[2 * dim :], layer.attn.to_out[0].weight
    per_head = torch.stack([a @ b for a, b in zip(w_o.chunk(heads, dim=1), w_v.chunk(heads, dim=0), strict=True)])
    centre = torch.eye(dim, dtype=h.dtype) - 1 / dim
    sigma = (h.var(dim=1, unbiased=False) + layer.norm.eps).sqrt()
    scale = torch.stack([torch.diag(layer.norm.weight) @ centre / s for s in sigma])  # (T, dim, dim)
    blocks = torch.einsum("hts,hab,sbc->tsac", weights, per_head, scale)
    blocks += torch.einsum("ts,ab->tsab", torch.eye(rows, dtype=h.dtype), torch.eye(dim, dtype=h.dtype))
    constant = torch.einsum("hts,hab,b->ta", weights, per_head, layer.norm.bias) + layer.attn.to_out[0].bias
    # The affine map is the layer.
    torch.testing.assert_close(torch.einsum("tsab,sb->ta", blocks, h) + constant, h + out[0])
    return blocks, constant


def ppeg_blocks(theirs, side, dim):
    """PPEG on the class token and the grid as (T, T, dim, dim) blocks: every cell's unit vectors sent through it."""
    cells = side * side
    units = torch.eye(cells * dim, dtype=torch.float64).view(cells, dim, cells, dim)  # [from cell, channel][at cell]
    sent = units.reshape(cells * dim, cells, dim).transpose(1, 2).reshape(-1, dim, side, side)
    convolved = sum(
        torch.nn.functional.conv2d(sent, conv.weight, padding=conv.padding, groups=dim)
        for conv in theirs.pos_layer.children()
    )
    grid = (sent + convolved).flatten(2).view(cells, dim, dim, cells)  # [from cell, channel][channel, at cell]
    blocks = torch.zeros(cells + 1, cells + 1, dim, dim, dtype=torch.float64)
    blocks[0, 0] = torch.eye(dim, dtype=torch.float64)
    blocks[1:, 1:] = grid.permute(3, 0, 2, 1)
    return blocks


@torch.no_grad()
def explicit(theirs, x):
    """Contribution of f_j to the normalised class token through row i: (n, n, dim), and f; two layers around PPEG."""
    f = theirs._fc1(x)
    n, dim = f.shape
    side = math.ceil(math.sqrt(n))
    of = [t % n for t in range(side * side)]  # instance of a token
    h = torch.cat([theirs.cls_token[0], f[of]])
    first, _ = layer_blocks(theirs.layer1, h)
    h1 = theirs.layer1(h[None])
    grid = ppeg_blocks(theirs, side, dim)
    h2 = theirs.encode(h1, side)[0]
    second, _ = layer_blocks(theirs.layer2, h2)
    h3 = theirs.layer2(h2[None])[0, 0]
    before = torch.einsum("tsab,sqbc->tqac", grid, first)  # of the tokens that the second layer reads
    norm = torch.diag(theirs.norm.weight) @ (torch.eye(dim, dtype=f.dtype) - 1 / dim)
    norm = norm / (h3.var(unbiased=False) + theirs.norm.eps).sqrt()
    parts = torch.zeros(n, n, dim, dtype=f.dtype)
    for s in range(1, len(h)):  # read by the class token in the first layer, unmixed; then carried through the second
        parts[of[s - 1], of[s - 1]] += norm @ second[0, 0] @ first[0, s] @ f[of[s - 1]]
    for t in range(1, len(h)):  # read in the second layer, at row t, what came from s
        for s in range(1, len(h)):
            parts[of[t - 1], of[s - 1]] += norm @ second[0, t] @ before[t, s] @ f[of[s - 1]]
    return parts, f


@pytest.mark.parametrize(("n", "landmarks"), [(4, 16), (7, 16), (7, 4), (12, 4), (20, 6)])
@pytest.mark.parametrize("value_conv", [True, False])
def test_transmil_is_the_explicit_composition_of_its_factors(n, landmarks, value_conv):
    torch.manual_seed(n)
    options = {"layers": 2, "heads": 2, "landmarks": landmarks, "value_conv": value_conv, "dim": 8}
    theirs = AuthorsTransMIL(DIM, 2, **options).double().eval()
    ours = milbench.create(f"transmil[{','.join(f'{k}={v}' for k, v in options.items())}]", in_dim=DIM)
    ours.double().load_authors_state(theirs.state_dict())
    x = torch.randn(n, DIM, dtype=torch.float64)
    parts, f = explicit(theirs, x)
    got, own = ours.eval().contributions(milbench.Bags.pack([x]))
    torch.testing.assert_close(own, f)
    torch.testing.assert_close(got, parts, atol=1e-10, rtol=1e-8)
    expected = (parts.norm(dim=2) / f.norm(dim=1)).numpy()
    actual = pooling_matrix(ours, milbench.Bags.pack([x]))
    assert actual.definition == "contributions"
    np.testing.assert_allclose(actual.matrix, expected / expected.sum(), atol=1e-10)
    assert actual.off_diagonal > 0.1


def explicit_mean(theirs, x):
    """Contribution of f_j to the mean of the normalised tokens through that of instance i; two layers around PPEG."""
    f = theirs._fc1(x)
    n, dim = f.shape
    side = math.ceil(math.sqrt(n))
    of = [t % n for t in range(side * side)]
    h = torch.cat([theirs.cls_token[0], f[of]])
    first, _ = layer_blocks(theirs.layer1, h)
    h2 = theirs.encode(theirs.layer1(h[None]), side)[0]
    second, _ = layer_blocks(theirs.layer2, h2)
    h3 = theirs.layer2(h2[None])[0]
    whole = torch.einsum("tsab,sqbc,qrcd->trad", second, ppeg_blocks(theirs, side, dim), first)
    norm = torch.diag(theirs.norm.weight) @ (torch.eye(dim, dtype=f.dtype) - 1 / dim)
    parts = torch.zeros(n, n, dim, dtype=f.dtype)
    for i in range(n):
        sigma = (h3[1 + i].var(unbiased=False) + theirs.norm.eps).sqrt()
        for s in range(1, len(h)):
            parts[i, of[s - 1]] += norm @ whole[1 + i, s] @ f[of[s - 1]] / sigma / n
    return parts, f


@pytest.mark.parametrize(("n", "landmarks"), [(4, 16), (7, 16), (7, 4), (12, 4)])
def test_transmils_mean_is_the_explicit_composition_of_its_factors(n, landmarks):
    torch.manual_seed(n)
    options = {"heads": 2, "landmarks": landmarks, "dim": 8, "readout": "mean"}
    theirs = AuthorsTransMIL(DIM, 2, **options).double().eval()
    ours = milbench.create(f"transmil[{','.join(f'{k}={v}' for k, v in options.items())}]", in_dim=DIM)
    ours.double().load_authors_state(theirs.state_dict())
    x = torch.randn(n, DIM, dtype=torch.float64)
    parts, f = explicit_mean(theirs, x)
    got, own = ours.eval().contributions(milbench.Bags.pack([x]))
    torch.testing.assert_close(own, f)
    torch.testing.assert_close(got, parts, atol=1e-10, rtol=1e-8)
    actual = pooling_matrix(ours, milbench.Bags.pack([x]))
    assert actual.definition == "contributions"
    assert actual.off_diagonal > 0.1


def test_sorting_the_rows_moves_rows_and_columns():
    """TransMIL in raster order of shuffled rows: the pooling matrix is that of the sorted ones, shuffled."""
    spec = "transmil[dim=16,heads=2,landmarks=8{}]"
    model, bags, x, _ = setup(spec.format(""), 11)
    sorting, _, _, _ = setup(spec.format(",order=raster"), 11)
    order = np.random.default_rng(0).permutation(11)
    places = torch.from_numpy(np.stack([np.arange(11) % 4, np.arange(11) // 4], axis=1)[order])
    moved = pooling_matrix(sorting, milbench.Bags.pack([torch.from_numpy(x[order])], [places]))
    assert moved.definition == "contributions"
    np.testing.assert_allclose(moved.matrix, pooling_matrix(model, bags).matrix[np.ix_(order, order)], atol=1e-12)


def test_zeros_in_the_square_are_nobodys_row():
    """With such zeros TransMIL is analysed by its derivatives; a bag that fills its square has no such token."""
    model, bags, _, _ = setup("transmil[square=zeros,dim=16,heads=2,landmarks=8]", 7)
    assert model.contributions(bags) is None
    actual = pooling_matrix(model, bags)
    assert actual.definition == "derivatives"
    assert actual.off_diagonal > 0
    with refused("pooling-matrix-undefined"):
        pooling_matrix(model, bags, "contributions")
    model, bags, _, _ = setup("transmil[square=zeros,dim=16,heads=2,landmarks=8]", 9)
    repeated, _, _, _ = setup("transmil[dim=16,heads=2,landmarks=8]", 9)
    actual = pooling_matrix(model, bags)
    assert actual.definition == "contributions"
    np.testing.assert_array_equal(actual.matrix, pooling_matrix(repeated, bags).matrix)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("readout", ["class", "mean"])
def test_transmils_parts_add_up_to_its_embedding(layers, n, readout):
    """Without the class token's own parameter and the biases there is nothing else, at any depth, short bag or long."""
    torch.manual_seed(0)
    size = "dim=16,heads=2,landmarks=8"
    model = milbench.create(f"transmil[layers={layers},{size},readout={readout}]", in_dim=DIM).double().eval()
    with torch.no_grad():
        model.cls_token.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and not name.startswith("embed"):
                parameter.zero_()
        bags = milbench.Bags.pack([torch.randn(n, DIM, dtype=torch.float64)])
        parts, _ = model.contributions(bags)
        torch.testing.assert_close(parts.sum(dim=(0, 1)), model(bags).embedding[0])


def test_attention_alone_is_no_mixing_and_ppeg_reaches_three_cells():
    """One layer reads the patches themselves: P is diagonal. With PPEG before it, a row has its 7 x 7 neighbours."""
    plain = pooling_matrix(*setup("transmil[layers=1,ppeg=none,dim=16,heads=2,landmarks=8]", 64)[:2])
    assert plain.off_diagonal < 1e-12
    encoded = pooling_matrix(*setup("transmil[layers=1,ppeg=7,dim=16,heads=2,landmarks=8]", 64)[:2]).matrix
    row, column = np.divmod(np.arange(64), 8)
    near = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 3
    assert (encoded[near] > 0).all()
    assert (encoded[~near] == 0).all()


# --- the interface alone ---------------------------------------------------------------------------------------------


class ThirdParty(Aggregator):
    """A method that shows nothing but logits and, where it has one, an embedding."""

    card = Card(title="ThirdParty", family="iid", citation="Nobody. Nowhere, 2024.")

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.embed = nn.Sequential(nn.Linear(in_dim, 5), nn.Tanh())
        self.score = nn.Linear(in_dim, 1)
        self.head = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, n_classes))

    def bag(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def pool(self, bags, attention):
        z = torch.stack([self.bag(x) for x in bags.x.split(list(bags.lengths))])
        return BagOutput(self.head(z), None, z)


class MeanAndMLP(ThirdParty):
    def bag(self, x):
        return self.embed(x).mean(dim=0)


class HiddenAttention(ThirdParty):
    def bag(self, x):
        return (torch.softmax(self.score(x), dim=0) * self.embed(x)).sum(dim=0)


class LogSumExp(ThirdParty):
    def bag(self, x):
        return torch.logsumexp(3 * self.embed(x), dim=0)


class NoisyOr(ThirdParty):
    def bag(self, x):
        return 1 - (1 - torch.sigmoid(self.embed(x))).prod(dim=0)


class SelfAttention(ThirdParty):
    def bag(self, x):
        h = self.embed(x)
        return (torch.softmax(h @ h.T, dim=1) @ h).mean(dim=0)


class Coupled(ThirdParty):
    """A sum, plus the product of instances 1 and 4."""

    strength = 1.0

    def bag(self, x):
        h = self.embed(x)
        return h.sum(dim=0) + self.strength * h[1].flip(0) * h[4]


def matrix_of(cls, n=8, seed=0):
    torch.manual_seed(seed)
    model = cls(DIM, 2)
    return pooling_matrix(model, milbench.Bags.pack([torch.randn(n, DIM)]))


@pytest.mark.parametrize("cls", [MeanAndMLP, HiddenAttention, LogSumExp, NoisyOr])
def test_third_party_iid_pooling_is_diagonal(cls):
    actual = matrix_of(cls)
    assert actual.definition == "derivatives"
    assert actual.off_diagonal == 0
    assert (np.diag(actual.matrix) > 0).all()


def test_third_party_self_attention_mixes():
    assert matrix_of(SelfAttention).off_diagonal > 0.02


def test_a_pair_that_acts_together_has_the_off_diagonal_mass():
    matrix = matrix_of(Coupled).matrix
    off = matrix * ~np.eye(8, dtype=bool)
    assert {tuple(at) for at in np.argwhere(off > 0.5 * off.max())} == {(1, 4), (4, 1)}
    np.testing.assert_allclose(matrix, matrix.T)


def test_second_derivatives_are_in_proportion():
    """Twice the coupling is twice the off-diagonal mass over the diagonal's, while it hardly moves the diagonal."""

    class Weak(Coupled):
        strength = 0.01

    class Double(Coupled):
        strength = 0.02

    weak, double = (matrix_of(cls).off_diagonal for cls in (Weak, Double))
    assert double / (1 - double) == pytest.approx(2 * weak / (1 - weak), rel=0.05)


@pytest.mark.parametrize("spec", ["mean", "max", "max_instance", "abmil[embed_dim=8]", "abmil[gated=true]"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_iid_methods_are_diagonal_by_their_derivatives_alone(spec, n_classes):
    model, bags, _, _ = setup(spec, 6, n_classes)
    assert pooling_matrix(model, bags, "derivatives").off_diagonal == 0


def test_dsmils_weights_depend_on_its_critical_instance_and_on_no_other():
    """The one founding iid method whose derivatives are not diagonal: n - 1 pairs of n (n - 1) / 2 hold the mass."""
    model, bags, x, w = setup("dsmil", 16)
    actual = pooling_matrix(model, bags, "derivatives").matrix
    critical = int((x @ w["instance.weight"].T + w["instance.bias"]).argmax())
    mass = actual * ~np.eye(16, dtype=bool)
    assert mass.sum() > 0.01
    assert mass[critical].sum() + mass[:, critical].sum() > 0.8 * mass.sum()


def test_equal_features_are_no_mixing():
    """A maximum of zeros has no derivative; pixels of digits are full of them."""
    torch.manual_seed(0)
    x = torch.randn(8, DIM).clamp(min=0)
    x[:, 0] = 0
    actual = pooling_matrix(milbench.create("max", in_dim=DIM), milbench.Bags.pack([x]))
    assert actual.off_diagonal == 0
    assert (np.count_nonzero(actual.components, axis=(1, 2)) == 1).all()


# --- behaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["max", "abmil", "dsmil", "clam_sb"])
def test_instances_in_another_order_are_rows_and_columns_in_another_order(spec):
    model, bags, x, _ = setup(spec, 7)
    order = np.random.default_rng(0).permutation(7)
    moved = pooling_matrix(model, milbench.Bags.pack([torch.from_numpy(x[order])])).matrix
    np.testing.assert_allclose(moved, pooling_matrix(model, bags).matrix[np.ix_(order, order)], atol=1e-9)


def test_the_model_is_left_as_it_was():
    model, bags, _, _ = setup("abmil[embed_dim=8,dropout=0.5]")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pooling_matrix(model, bags, "derivatives")
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("spec", ["mean", "max", "transmil[dim=16,heads=2,landmarks=8]"])
def test_one_instance_is_the_whole(spec):
    model, bags, _, _ = setup(spec, 1)
    assert pooling_matrix(model, bags).matrix.tolist() == [[1.0]]
    assert pooling_matrix(model, bags, "derivatives").matrix.tolist() == [[1.0]]


class Deaf(ThirdParty):
    def bag(self, x):
        return 0 * x.sum() + self.head[0].bias[:5]


class Splits(ThirdParty):
    """Takes itself apart: half of instance j is read at its own row, half at the next one's."""

    def bag(self, x):
        return x.sum(dim=0)[:5]

    def contributions(self, bags):
        n = len(bags.x)
        own = torch.eye(n, dtype=bags.x.dtype) / 2
        return (own + own.roll(1, dims=0))[:, :, None] * bags.x, bags.x


class SplitsBadly(Splits):
    def contributions(self, bags):
        return bags.x, bags.x


def test_a_third_party_method_may_decompose_its_representation():
    actual = matrix_of(Splits)
    assert actual.definition == "contributions"
    assert actual.off_diagonal == pytest.approx(0.5)
    np.testing.assert_allclose(actual.matrix, (np.eye(8) + np.roll(np.eye(8), 1, axis=0)) / 16)


def test_equal_instances_have_equal_shares():
    model = milbench.create("abmil", in_dim=DIM)
    for definition in (None, "derivatives"):
        actual = pooling_matrix(model, milbench.Bags.pack([torch.ones(5, DIM)]), definition)
        np.testing.assert_allclose(actual.matrix, np.eye(5) / 5, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (lambda m, b: pooling_matrix(m, milbench.Bags.pack([b.x, b.x])), ("interpret-bad-input", "2")),
        (lambda m, b: pooling_matrix(m, milbench.Bags.pack([b.x.repeat(100, 1)])), ("interpret-bad-input", MOST)),
        (lambda m, b: pooling_matrix(m, b, "contributions"), ("pooling-matrix-undefined", "contributions")),
        (
            lambda m, b: pooling_matrix(milbench.create("max", in_dim=DIM), b, "weights"),
            ("pooling-matrix-undefined", "weights"),
        ),
        (lambda m, b: pooling_matrix(m, milbench.Bags.pack([b.x[:3]]), "derivatives"), ("interpret-bad-input", "3")),
        (lambda m, b: pooling_matrix(Deaf(DIM, 2), b), ("pooling-matrix-undefined", "Deaf")),
        (lambda m, b: pooling_matrix(SplitsBadly(DIM, 2), b), ("model-bad-output", "SplitsBadly.contributions")),
    ],
)
def test_what_cannot_be_computed_is_refused(call, refusal):
    model, bags, _, _ = setup("mean")
    with refused(*refusal):
        call(model, bags)


# --- figure and command line -----------------------------------------------------------------------------------------


def test_the_figure_shows_the_matrix_and_its_number():
    matrix = np.array([[0.5, 0.25], [0.0, 0.25]])
    figure = matrix_figure(matrix, "mine", 0.25, "A note.")
    ax = figure.axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
    assert ax.get_title(loc="left") == "mine: 25.0 % of the mass off the diagonal"
    assert "A note." in ax.get_xlabel()


@pytest.fixture
def show(tmp_path, monkeypatch):
    from milbench.cli import app

    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["show", *words])


@pytest.mark.parametrize(
    ("method", "definition", "share"),
    [
        ("mean", "weights", "0.0000"),
        ("max", "derivatives", "0.0000"),
        ("transmil[dim=16,heads=2,landmarks=8]", "contributions", None),
    ],
)
def test_show_computes_draws_and_says_how(show, tmp_path, method, definition, share):
    said = show("--pooling-matrix", method, "--instances", "16", "--out", "figures/matrix.png")
    assert said.exit_code == 0, said.output
    actual = re.search(r"Off-diagonal +(\S+) of the mass", said.output)
    torch.manual_seed(0)
    model = milbench.create(method, in_dim=32)
    matrix = pooling_matrix(model, milbench.Bags.pack([torch.randn(16, 32)]))
    assert float(actual[1]) == pytest.approx(matrix.off_diagonal, abs=1e-4)
    assert actual[1] == share or float(actual[1]) > 0.1
    assert DEFINITIONS[definition] in said.output
    assert (tmp_path / "figures" / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_show_names_the_figure_after_the_method(show, tmp_path):
    assert show("--pooling-matrix", "abmil[gated=true]", "--instances", "9").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pooling-matrix-abmil-gated-true.png"]


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("mean", "--instances", "9"), ("option-conflict", "--instances", "--pooling-matrix")),
        (
            ("--pooling-matrix", "mean", "--out", "matrix.csv"),
            ("option-bad-file", "--out matrix.csv", ".png, .pdf or .svg"),
        ),
        (("--pooling-matrix", "mean", "--instances", "0"), ("option-bad-value", "--instances", 0)),
        (("--pooling-matrix", "mean", "--instances", "1000"), ("interpret-bad-input", 1000, MOST)),
        (("--pooling-matrix", "meen"), ("method-unknown", "'meen'", "'mean'")),
    ],
)
def test_show_refuses_in_a_sentence(show, tmp_path, words, refusal):
    error = show(*words).exception
    assert isinstance(error, MilbenchError)
    code, *names = refusal
    assert_refusal(error.code, str(error), code, tuple(names))
    assert list(tmp_path.iterdir()) == []

"""Instance scores and their scores against closed forms, the package's attention, scipy and scikit-learn."""

import itertools
import math
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from support.odd_methods import Plain
from support.refusal import refused
from support.shared import needs_shared
from support.transmil import AuthorsTransMIL
from torch.utils._python_dispatch import TorchDispatchMode

import milbench
from milbench.bags import BagOutput
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.data.datasets import prepare
from milbench.interpret.figures import curves_figure, heatmap_figure
from milbench.interpret.relevance import (
    attention_entropy,
    export_attention,
    instance_auc,
    interpret,
    relevance,
    removal_curves,
)
from milbench.measure.memory import PeakMemory
from milbench.registry import registry

DIM = 5


def batch(*lengths, seed=0, dim=DIM):
    random = torch.Generator().manual_seed(seed)
    return milbench.Bags.pack([torch.randn(n, dim, generator=random, dtype=torch.float64) for n in lengths])


def made(spec, n_classes=2, dim=DIM):
    torch.manual_seed(0)
    return milbench.create(spec, in_dim=dim, n_classes=n_classes).double()


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", registry().names())
def test_every_founding_method_has_attention_of_mean_one(method):
    bags = batch(4, 1, 9)
    model = made(method)
    scores = relevance(model, bags)
    assert scores.source == "attention"
    assert model.training
    for part, n in zip(scores.scores.split([4, 1, 9]), (4, 1, 9), strict=True):
        assert float(part.sum()) == pytest.approx(n, rel=1e-5)


@pytest.mark.parametrize("method", ["clam_mb", "dsmil", "max_instance"])
def test_methods_with_an_attention_a_class_use_that_of_the_target(method):
    bags, model = batch(4, 3), made(method, 3)
    attention = model.eval()(bags, attention=True).attention
    scores = relevance(model, bags, [2, 0])
    expected = torch.cat([attention[:4, 2] * 4, attention[4:, 0] * 3])
    torch.testing.assert_close(scores.scores, expected.float())
    predicted = model.probabilities(model(bags)).argmax(dim=1)
    assert relevance(model, bags).targets.tolist() == predicted.tolist()


def test_heads_are_averaged():
    bags, model = batch(9), made("transmil[dim=16,heads=2,landmarks=4]").eval()
    attention = model(bags, attention=True).attention
    torch.testing.assert_close(relevance(model, bags, [1]).scores, 9 * attention.mean(dim=1).float())


@pytest.mark.parametrize("target", [0, 1])
def test_gradient_times_input_of_a_linear_method(target):
    """Mean pooling and a linear head: an instance's score is its share of the log-odds, but for the bias."""
    torch.manual_seed(0)
    model, bags = Plain(DIM, 2).double(), batch(6, 2)
    scores = relevance(model, bags, [target, target])
    assert scores.source == "gradient x input"
    w = model.head.weight.detach()
    expected = bags.x @ (w[target] - w[1 - target]) / torch.tensor([6.0] * 6 + [2.0] * 2)
    torch.testing.assert_close(scores.scores, expected.float())
    assert all(p.grad is None for p in model.parameters())


def test_gradient_times_input_of_one_sigmoid_has_the_targets_sign():
    bags, model = batch(6), made("abmil")
    scores = [relevance(model, bags, [target], "gradient x input").scores for target in (0, 1)]
    torch.testing.assert_close(scores[0], -scores[1])
    x = bags.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(bags.with_features(x)).logits.sum(), x)
    torch.testing.assert_close(scores[1], (grad * bags.x).sum(dim=1).float())


@torch.no_grad()
def packages_attention(theirs, x):
    """The class token's row in the last layer over the patches, from the package's N x N matrix: (n, heads)."""
    h = theirs._fc1(x)
    n, side = len(x), math.ceil(math.sqrt(len(x)))
    h = torch.cat([theirs.cls_token[0], h, h[: side * side - n]])[None]
    h = theirs.layer2.norm(theirs.encode(theirs.layer1(h), side))
    _, attention = theirs.layer2.attn(h, return_attn=True)
    row = attention[0, :, -h.shape[1], -h.shape[1] + 1 :].T
    row = torch.stack([sum(row[t] for t in range(side * side) if t % n == i) for i in range(n)]).clamp(min=0)
    return row / row.sum(dim=0)


@pytest.mark.parametrize("n", [5, 12, 16, 40, 130])
def test_transmils_attention_is_the_class_tokens_row_of_the_composed_matrix(n):
    torch.manual_seed(n)
    theirs = AuthorsTransMIL(DIM, 2, dim=16, heads=2, landmarks=16).double().eval()
    ours = made("transmil[dim=16,heads=2,landmarks=16]").eval()
    ours.load_authors_state(theirs.state_dict())
    bags = batch(n, seed=n)
    scores = relevance(ours, bags)
    expected = packages_attention(theirs, bags.x)
    torch.testing.assert_close(scores.attention, expected, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(scores.scores, n * expected.mean(dim=1).float())


# --- no N x N --------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers the most elements that any operation has returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor) and value.is_contiguous():  # not a view that expands
                self.elements = max(self.elements, value.numel())
        return out


@pytest.mark.parametrize("method", registry().names())
def test_the_largest_thing_made_grows_as_the_bag(method):
    model = made(f"{method}[dim=32,heads=2,landmarks=16]" if method == "transmil" else method, dim=16).float()
    most = []
    for n in (1500, 6000):
        with Largest() as seen:
            relevance(model, milbench.Bags.pack([torch.randn(n, 16)]))
        most.append(seen.elements)
    assert most[1] < 4.3 * most[0]
    assert most[1] < 6000**2 / 5


def test_transmils_export_takes_a_few_rows_of_memory_a_patch():
    """Peak resident memory: 9,000 patches more take less than 24 KiB each; one N x N matrix would take 60 KiB."""
    model, peaks = milbench.create("transmil", in_dim=64), []
    relevance(model, milbench.Bags.pack([torch.randn(2000, 64)]))
    for n in (3000, 12_000):
        bags = milbench.Bags.pack([torch.randn(n, 64)])
        with PeakMemory() as peak:
            relevance(model, bags)
        peaks.append(peak.reading.peak_bytes)
    assert (peaks[1] - peaks[0]) / 9000 < 24 * 1024


# --- entropy ---------------------------------------------------------------------------------------------------------


def test_entropy_of_even_single_and_lonely_attention():
    attention = torch.tensor([[0.25, 1.0]] + [[0.25, 0.0]] * 3 + [[1.0, 1.0]])
    actual = attention_entropy(attention, milbench.Bags(torch.zeros(5, 1), [4, 1]))
    assert actual[0].tolist() == pytest.approx([1.0, 0.0])
    assert actual[1].isnan().all()


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_entropy_is_scipys_over_log_n(lengths, seed):
    weights = torch.from_numpy(np.random.default_rng(seed).random((sum(lengths), 3)))
    actual = attention_entropy(weights, milbench.Bags(torch.zeros(sum(lengths), 1), lengths))
    expected = [scipy.stats.entropy(part.numpy()) / math.log(len(part)) for part in weights.split(lengths)]
    np.testing.assert_allclose(actual.numpy(), expected)


# --- AUC against instance labels -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_instance_auc_is_the_share_of_pairs_in_order(lengths, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, sum(lengths)).astype(float), rng.integers(-1, 2, sum(lengths))

    def pairs(s, y):
        won = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(s[y == 1], s[y == 0])]
        return np.mean(won) if won else np.nan

    actual = instance_auc(scores, labels, lengths)
    ends = np.cumsum(lengths)
    expected = [pairs(scores[e - n : e], labels[e - n : e]) for n, e in zip(lengths, ends, strict=True)]
    np.testing.assert_allclose(actual.bags, expected)
    np.testing.assert_allclose(actual.pooled, pairs(scores, labels))
    assert actual.counted == np.isfinite(expected).sum()
    np.testing.assert_allclose(actual.mean, np.nanmean(expected) if actual.counted else np.nan)


def test_attention_that_was_made_to_find_a_feature_finds_it():
    model = made("abmil")
    with torch.no_grad():
        for parameter in model.score.parameters():
            parameter.zero_()
        model.score.v.weight[0, 2] = 1  # tanh of feature 2, times 5
        model.score.w.weight[0, 0] = 5
    bags = batch(30, 30)
    labels = (bags.x[:, 2] > 0.5).long().numpy()
    assert instance_auc(relevance(model, bags).scores.numpy(), labels, bags.lengths).bags.tolist() == [1.0, 1.0]


# --- deletion and insertion ------------------------------------------------------------------------------------------


def decided(x):
    """A bag's probability under max_instance with weight one on the first feature."""
    return 1 / (1 + np.exp(-x.max()))


def deciding():
    model = made("max_instance")
    with torch.no_grad():
        model.score.weight.zero_()
        model.score.weight[0, 0] = 1
        model.score.bias.zero_()
    return model


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 15), steps=st.integers(1, 20), seed=st.integers(0, 999))
def test_curves_of_a_maximum(n, steps, seed):
    bag = batch(n, seed=seed)
    s = bag.x[:, 0].numpy()
    up = np.sort(s)
    actual = removal_curves(deciding(), bag, s, 1, steps=steps, repeats=2)
    assert actual.kept[0] == 1
    assert actual.kept[-1] == n
    assert len(actual.kept) == min(steps, n - 1) + 1
    np.testing.assert_allclose(actual.insertion, decided(up), atol=1e-6)  # probabilities are fp32, by contract
    np.testing.assert_allclose(actual.deletion, [decided(up[:k]) for k in actual.kept], atol=1e-6)
    share = (actual.kept - 1) / (n - 1)
    area = np.sum(np.diff(share) * (actual.deletion[1:] + actual.deletion[:-1]) / 2)
    assert actual.deletion_auc == pytest.approx(area)
    assert actual.insertion_auc == pytest.approx(decided(up), abs=1e-6)
    against = removal_curves(deciding(), bag, s, 0, steps=steps, repeats=2)
    np.testing.assert_allclose(against.deletion, 1 - actual.deletion, atol=1e-6)


def test_random_orders_have_the_expected_curve():
    """The maximum of k of n drawn without replacement, over all subsets."""
    bag = batch(6)
    s = bag.x[:, 0].numpy()
    actual = removal_curves(deciding(), bag, s, 1, repeats=2000)
    expected = [np.mean([decided(s[list(some)]) for some in itertools.combinations(range(6), k)]) for k in range(1, 7)]
    np.testing.assert_allclose(actual.random, expected, atol=0.02)
    again = removal_curves(deciding(), bag, s, 1, repeats=2000)
    np.testing.assert_array_equal(actual.random, again.random)
    assert actual.deletion_auc < actual.random_auc < actual.insertion_auc


def test_even_scores_have_the_random_curve_and_an_auc_of_half():
    """Mean pooling attends to all instances equally: neither the order of the rows nor a bag's length may matter."""
    bags, model = batch(7, 49, 30), made("mean")
    scores = relevance(model, bags).scores
    assert (scores == 1).all()
    labels = np.repeat([0, 1, 1], bags.lengths)
    assert instance_auc(scores, labels, bags.lengths).pooled == 0.5
    for i in range(3):
        actual = removal_curves(model, bags[i], torch.ones(bags.lengths[i]), 1, steps=5, repeats=3)
        np.testing.assert_array_equal(actual.insertion, actual.random)
        np.testing.assert_array_equal(actual.deletion, actual.random)


class ReadsInOrder(Plain):
    """Its first feature numbers the rows, its coordinates too."""

    def pool(self, bags, attention):
        for x, where in zip(bags.x.split(list(bags.lengths)), bags.coords.split(list(bags.lengths)), strict=True):
            assert (x[:, 0].diff() > 0).all()
            assert torch.equal(where[:, 0], x[:, 0])
        return super().pool(bags, attention)


def test_rows_keep_their_order_and_coordinates_in_every_part(monkeypatch):
    monkeypatch.setattr("milbench.interpret.relevance.ROWS", 40)
    rows = torch.arange(30.0)[:, None]
    bag = milbench.Bags(rows.repeat(1, DIM), [30], rows.repeat(1, 2))
    actual = removal_curves(ReadsInOrder(DIM, 2), bag, torch.arange(30) % 7, 0, repeats=3)
    assert np.isfinite(actual.random).all()


# --- trained models --------------------------------------------------------------------------------------------------


def trained(spec, bags, labels, epochs, lr=5e-3):
    """Adam on batches of 16 bags."""
    torch.manual_seed(0)
    model = milbench.create(spec, in_dim=bags[0].shape[1])
    optimizer, order = torch.optim.Adam(model.parameters(), lr), np.random.default_rng(0)
    for _ in range(epochs):
        for at in np.array_split(order.permutation(len(bags)), len(bags) // 16):
            loss = model.loss(model(milbench.Bags.pack([bags[i] for i in at])), torch.tensor(labels[at]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@pytest.fixture(scope="module")
def digits():
    """Bags of digits: ABMIL trained on half of them, and the positive ones of the others with instance labels."""
    home = prepare("digits-bags", {"train": 160, "val": 4, "test": 40})
    cache = FeatureCache.open(home / "features")
    table = pd.read_csv(home / "labels.csv", dtype={"slide_id": str}).set_index("slide_id")["label"]
    ids = [slide for slide in cache.ids if slide.startswith("train")]
    labels = table.loc[ids].to_numpy()
    model = trained("abmil[embed_dim=64]", [cache[slide].clone() for slide in ids], labels, epochs=40)
    test = [slide for slide in cache.ids if slide.startswith("test") and table[slide] == 1]
    instances = pd.read_parquet(home / "instances.parquet").sort_values(["slide_id", "row"])
    truth = {slide: part["label"].to_numpy() for slide, part in instances.groupby("slide_id")}
    return model, [(slide, cache.bags([slide])) for slide in test], truth


@pytest.mark.parametrize("source", ["attention", "gradient x input"])
def test_a_trained_model_finds_the_nines(digits, source):
    model, slides, truth = digits
    actual = interpret(model, slides, dict.fromkeys(dict(slides), 1), truth, source, repeats=5)
    scores = [relevance(model, bag, [1], source).scores.numpy() for _, bag in slides]
    expected = [
        roc_auc_score(truth[slide], s) if 0 < truth[slide].sum() < len(s) else np.nan
        for (slide, _), s in zip(slides, scores, strict=True)
    ]
    np.testing.assert_allclose(actual.bags["instance_auc"], expected)
    pooled = roc_auc_score(np.concatenate([truth[slide] for slide, _ in slides]), np.concatenate(scores))
    summary = actual.summary()
    assert summary["pooled_instance_auc"] == pytest.approx(pooled)
    assert summary["instance_auc"] > 0.8
    assert summary["deletion"] < summary["random"] - 0.05
    assert summary["insertion"] > summary["random"] + 0.05
    assert set(actual.bags["source"]) == {source}
    assert actual.bags["entropy"].between(0, 1).all() == (source == "attention")


def test_random_scores_have_an_auc_of_half(digits):
    model, slides, truth = digits
    rng = np.random.default_rng(0)
    slides = slides * 5
    every = [rng.random(bag.lengths[0]) for _, bag in slides]
    labels = np.concatenate([truth[slide] for slide, _ in slides])
    assert instance_auc(np.concatenate(every), labels, [len(s) for s in every]).pooled == pytest.approx(0.5, abs=0.1)
    parts = enumerate(zip(every, slides, strict=True))
    curves = [removal_curves(model, bag, s, 1, repeats=5, seed=i) for i, (s, (_, bag)) in parts]
    assert np.mean([c.insertion_auc - c.random_auc for c in curves]) == pytest.approx(0, abs=0.05)
    assert np.mean([c.deletion_auc - c.random_auc for c in curves]) == pytest.approx(0, abs=0.05)


@needs_shared
def test_nuclei_of_colon_cancer(shared_root):
    """Real images with a label a nucleus: epithelial nuclei are what makes a bag positive."""
    with np.load(shared_root / "data" / "histology" / "colon_cancer.npz", allow_pickle=False) as file:
        x, ends, bag = file["features"], file["bag_offsets"], file["bag_label"].astype(np.int64)
        truth = file["instance_label"]
    x = torch.from_numpy((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6))
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    train, test = np.arange(100) % 2 == 0, [i for i in range(1, 100, 2) if bag[i] == 1]
    model = trained("abmil[embed_dim=64]", [x[p] for p, own in zip(parts, train, strict=True) if own], bag[train], 10)
    slides = [(str(i), milbench.Bags.pack([x[parts[i]]])) for i in test]
    labels = {str(i): truth[parts[i]] for i in test}
    actual = interpret(model, slides, dict.fromkeys(labels, 1), labels, repeats=3, steps=5)
    assert actual.summary()["instance_auc"] > 0.6
    expected = roc_auc_score(labels[str(test[0])], relevance(model, slides[0][1], [1]).scores.numpy())
    assert actual.bags["instance_auc"][0] == pytest.approx(expected)


# --- export and figures ----------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    rng = np.random.default_rng(0)
    with CacheWriter(tmp_path / "cache", "float16") as writer:
        for name, n in (("0012", 30), ("a/b", 7)):
            at = np.arange(n)
            writer.add(name, rng.normal(size=(n, DIM)), np.stack([at % 6, at // 6], axis=1) * 512, coord_step=512)
    return FeatureCache.open(tmp_path / "cache")


@pytest.mark.parametrize("spec", ["clam_mb", "transmil[dim=16,heads=2,landmarks=8]"])
def test_export_writes_what_the_method_returned(cache, tmp_path, spec):
    model = made(spec, 3).float().eval()
    written = export_attention(model, cache, cache.ids, tmp_path / "out")
    assert sorted(path.suffix for path in written) == [".parquet", ".parquet", ".png", ".png"]
    for slide in cache.ids:
        (file,) = [path for path in written if unquote(path.stem) == slide and path.suffix == ".parquet"]
        table, bags = pd.read_parquet(file), cache.bags([slide], dtype=torch.float32)
        scores = relevance(model, bags)
        np.testing.assert_array_equal(table[["x", "y"]], cache.coords(slide))
        np.testing.assert_array_equal(table["score"], scores.scores)
        np.testing.assert_array_equal(table.filter(like="attention_"), scores.attention)
        assert file.with_name(f"{file.stem}.png").read_bytes().startswith(b"\x89PNG")


def test_export_without_coordinates_has_no_map(tmp_path):
    with CacheWriter(tmp_path / "cache") as writer:
        writer.add("s", np.ones((3, DIM), np.float32))
    torch.manual_seed(0)
    (file,) = export_attention(Plain(DIM, 2), FeatureCache.open(tmp_path / "cache"), ["s"], tmp_path)
    assert list(pd.read_parquet(file)) == ["score"]


def test_a_map_shows_every_score_at_its_place():
    coords = np.array([[2000, 1000], [2512, 1000], [2000, 2024], [2000, 2024]])
    figure = heatmap_figure(coords, np.array([1.0, 2.0, 3.0, 5.0]), "attention", 512, np.array([1, 0, -1, 0]), "slide")
    ax = figure.axes[0]
    image = ax.images[0].get_array()
    assert image.filled(np.nan).tolist()[0] == [1.0, 2.0]
    assert image.mask.tolist() == [[False, False], [True, True], [False, True]]
    assert image[2, 0] == 4.0  # two in one cell: their mean
    left, right, low, high = ax.images[0].get_extent()
    assert (left, right, low, high) == (2000, 3024, 1000, 2536)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y grows downwards
    assert ax.collections[0].get_offsets().tolist() == [[2256, 1256]]  # the ring of the positive one, at its centre
    assert ax.get_title(loc="left") == "slide"


def test_a_map_of_nuclei_has_a_dot_each():
    coords, scores = np.random.default_rng(0).random((40, 2)), np.random.default_rng(1).random(40)
    dots = heatmap_figure(coords, scores, "gradient x input").axes[0].collections[0]
    got = sorted(zip(map(tuple, dots.get_offsets().tolist()), dots.get_array().tolist(), strict=True))
    assert got == sorted(zip(map(tuple, coords.tolist()), scores.tolist(), strict=True))


@pytest.mark.parametrize("n", [1, 2])
def test_a_map_of_hardly_anything_is_drawn(n):
    for step in (None, 256.0):
        assert heatmap_figure(np.zeros((n, 2)), np.ones(n), "attention", step).axes


def test_the_figure_of_curves_shows_them():
    curves = removal_curves(deciding(), batch(8), batch(8).x[:, 0], 1)
    (ax,) = curves_figure([("mine", curves)], "tumour").axes
    insertion, deletion, *_ = ax.lines
    np.testing.assert_array_equal(insertion.get_ydata(), curves.insertion)
    np.testing.assert_array_equal(deletion.get_xdata(), 1 - insertion.get_xdata())
    assert f"deletion {curves.deletion_auc:.3f}" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert "tumour" in ax.get_ylabel()


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (lambda m, b: relevance(Plain(DIM, 2), b, source="attention"), ("attention-missing",)),
        (lambda m, b: relevance(m, b, [2]), ("interpret-bad-input", "1", "0")),
        (lambda m, b: relevance(m, b, [0, 1]), ("interpret-bad-input",)),
        (lambda m, b: instance_auc([1.0, 2.0], [1], [2]), ("interpret-bad-input",)),
        (lambda m, b: instance_auc([1.0, 2.0], [1, 3], [2]), ("interpret-bad-input", "3")),
        (lambda m, b: removal_curves(m, b, np.ones(4), 1), ("interpret-bad-input", "3")),
        (lambda m, b: removal_curves(m, batch(1), [1.0], 1), ("interpret-bad-input", "2")),
        (lambda m, b: removal_curves(m, batch(3, 3), np.ones(6), 1), ("interpret-bad-input",)),
        (lambda m, b: removal_curves(m, b, np.ones(3), 2), ("interpret-bad-input",)),
        (lambda m, b: removal_curves(m, b, np.ones(3), 1, steps=0), ("interpret-bad-input",)),
        (lambda m, b: interpret(m, []), ("interpret-bad-input",)),
        (lambda m, b: interpret(m, [("a", b), ("b", b)], {"a": 1}), ("interpret-bad-input",)),
    ],
)
def test_what_cannot_be_scored_is_refused(call, refusal):
    with refused(*refusal):
        call(made("mean"), batch(3))


def test_a_slides_random_orders_are_its_own_in_any_company():
    bag, model = batch(12), made("abmil")
    table = interpret(model, [("a", bag), ("b", bag)], repeats=2).bags
    assert table["random"][0] != table["random"][1]
    alone = interpret(model, [("b", bag)], repeats=2).bags
    pd.testing.assert_frame_equal(alone, table[1:].reset_index(drop=True))


class Forgets(Plain):
    def pool(self, bags, attention):
        return BagOutput(super().pool(bags, attention).logits)


def test_one_instance_has_no_curves_and_no_entropy():
    actual = interpret(Forgets(DIM, 2).double(), [("s", batch(1))], labels={"s": [1]})
    assert actual.bags[["entropy", "instance_auc", "insertion", "deletion", "random"]].isna().all(axis=None)
    assert math.isnan(actual.pooled_auc)

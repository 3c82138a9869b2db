"""ABMIL, DSMIL, CLAM and the plain poolings against their equations, evaluated bag by bag in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import milbench

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def setup(spec, lengths, n_classes, dim=5, seed=0):
    torch.manual_seed(seed)
    model = milbench.create(spec, in_dim=dim, n_classes=n_classes).double().eval()
    bags = [torch.randn(n, dim, dtype=torch.float64) for n in lengths]
    out = model(milbench.Bags.pack(bags), attention=True)
    w = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    return model, [b.numpy() for b in bags], out, w


def softmax(x):
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def close(ours, expected):
    np.testing.assert_allclose(ours.detach().numpy(), np.asarray(expected), rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(lengths=SIZES, gated=st.booleans(), n_classes=st.integers(2, 4))
def test_abmil(lengths, gated, n_classes):
    model, bags, out, w = setup(f"abmil[gated={gated},embed_dim=7-6]", lengths, n_classes)
    logits, attention = [], []
    for x in bags:
        h = x
        for i in (0, 3):
            h = np.maximum(h @ w[f"embed.{i}.weight"].T + w[f"embed.{i}.bias"], 0)
        s = np.tanh(h @ w["score.v.weight"].T + w["score.v.bias"])
        if gated:
            s = s * sigmoid(h @ w["score.u.weight"].T + w["score.u.bias"])
        a = softmax(s @ w["score.w.weight"].T + w["score.w.bias"])
        logits.append(w["head.weight"] @ (a[:, 0] @ h) + w["head.bias"])
        attention.append(a)
    close(out.logits, logits)
    close(out.attention, np.concatenate(attention))
    targets = [i % n_classes for i in range(len(bags))]
    if n_classes == 2:
        p = [sigmoid(z[0]) for z in logits]
        expected = np.mean([-math.log(q if y else 1 - q) for q, y in zip(p, targets, strict=True)])
    else:
        expected = np.mean([-np.log(softmax(z)[y]) for z, y in zip(logits, targets, strict=True)])
    # The loss is in fp32, by contract.
    assert model.loss(out, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=SIZES, n_classes=st.integers(2, 4))
def test_dsmil(lengths, n_classes):
    model, bags, out, w = setup("dsmil", lengths, n_classes)
    k = 1 if n_classes == 2 else n_classes
    logits, attention, critical = [], [], []
    for x in bags:
        c = x @ w["instance.weight"].T + w["instance.bias"]
        q = np.tanh(np.maximum(x @ w["q.0.weight"].T + w["q.0.bias"], 0) @ w["q.2.weight"].T + w["q.2.bias"])
        m = c.argmax(axis=0)
        u = softmax(q @ q[m].T / math.sqrt(128))
        b = u.T @ x
        logits.append([(w["fcc.weight"][j] * b).sum() + w["fcc.bias"][j] for j in range(k)])
        attention.append(u)
        critical.append(c.max(axis=0))
    close(out.logits, logits)
    close(out.attention, np.concatenate(attention))
    targets = np.array([i % n_classes for i in range(len(bags))])
    wanted = targets[:, None] if k == 1 else np.eye(k)[targets]

    def bce(z):
        p = sigmoid(np.array(z))
        return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()

    assert model.loss(out, torch.from_numpy(targets)).item() == pytest.approx(
        (bce(logits) + bce(critical)) / 2, rel=1e-5
    )
    p = sigmoid(np.array(logits))
    expected = np.concatenate([1 - p, p], axis=1) if k == 1 else p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.probabilities(out).detach().numpy(), expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=SIZES, subtyping=st.booleans(), multi=st.booleans(), k=st.integers(1, 9))
def test_clam_with_bags_shorter_than_k(lengths, subtyping, multi, k):
    """The parity cases have no bag of fewer than k patches: there every one of them stands at either end."""
    spec = f"{'clam_mb' if multi else 'clam_sb'}[k_sample={k},subtyping={subtyping}]"
    model, bags, out, w = setup(spec, lengths, 3)
    total, start = 0.0, 0
    for i, x in enumerate(bags):
        y = i % 3
        h = np.maximum(x @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
        s = np.tanh(h @ w["score.v.weight"].T + w["score.v.bias"]) * sigmoid(
            h @ w["score.u.weight"].T + w["score.u.bias"]
        )
        a = softmax(s @ w["score.w.weight"].T + w["score.w.bias"])
        close(out.attention[start : start + len(x)], a)
        start += len(x)
        if multi:
            logits = np.array(
                [w[f"classifiers.{c}.weight"][0] @ (a[:, c] @ h) + w[f"classifiers.{c}.bias"][0] for c in range(3)]
            )
        else:
            logits = w["head.weight"] @ (a[:, 0] @ h) + w["head.bias"]
        close(out.logits[i], logits)
        instance = 0.0
        for c in range(3):
            order = np.argsort(-a[:, c if multi else 0], kind="stable")
            few = min(k, len(x))
            picked = [(j, 1 if c == y else 0) for j in order[:few]]
            if c == y:
                picked += [(j, 0) for j in order[::-1][:few]]
            elif not subtyping:
                continue
            terms = []
            for j, label in picked:
                z = w[f"instance_classifiers.{c}.weight"] @ h[j] + w[f"instance_classifiers.{c}.bias"]
                terms.append(-np.log(softmax(z)[label]))
            instance += np.mean(terms)
        total += 0.7 * -np.log(softmax(logits)[y]) + 0.3 * instance / (3 if subtyping else 1)
    targets = torch.tensor([i % 3 for i in range(len(bags))])
    assert model.loss(out, targets).item() == pytest.approx(total / len(bags), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths=SIZES, n_classes=st.integers(2, 3))
def test_plain_poolings(lengths, n_classes):
    for name in ("mean", "max", "max_instance"):
        _, bags, out, w = setup(name, lengths, n_classes)
        expected = []
        for x in bags:
            if name == "max_instance":
                s = (x @ w["score.weight"].T + w["score.bias"]).max(axis=0)
                expected.append([0, s[0]] if n_classes == 2 else s)
            else:
                expected.append(w["head.weight"] @ getattr(x, name)(axis=0) + w["head.bias"])
        close(out.logits, expected)

"""The streamed layers: gradients against differences, chunks that must not matter, and dropout that keeps the mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from milbench.nn import PPEG, NystromAttention, SquareTokens, ppeg
from milbench.nn.nystrom import chunks as stream
from milbench.nn.nystrom import pinv, value_conv
from milbench.nn.nystrom.chunks import Dropout, Plan

D64 = torch.float64


def layer(heads=2, landmarks=4, conv=True, dim=6, dropout=0.0):
    torch.manual_seed(0)
    attn = NystromAttention(dim, heads, landmarks, 3, conv, dropout).double()
    norm = nn.LayerNorm(dim).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    return attn, norm


def agrees_with_differences(function, *inputs):
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


def parameters(*modules):
    return [p for module in modules for p in module.parameters()]


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_gradients_of_a_layer(monkeypatch, chunk, conv, normed):
    """11 rows for 4 landmarks: zero rows in front, a chunk that ends inside a landmark, a last chunk that is short."""
    monkeypatch.setitem(stream.CHUNK, "cpu", chunk)
    attn, norm = layer(conv=conv)
    x = torch.randn(11, 6, dtype=D64, requires_grad=True)
    used = norm if normed else None
    agrees_with_differences(lambda x, *_: attn.long(x, used, residual=normed), x, *parameters(attn, *[norm] * normed))


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("conv", [True, False])
def test_gradients_of_the_first_row(monkeypatch, chunk, conv):
    monkeypatch.setitem(stream.CHUNK, "cpu", chunk)
    attn, norm = layer(conv=conv)
    x = torch.randn(11, 6, dtype=D64, requires_grad=True)
    agrees_with_differences(lambda x, *_: attn.long_first(x, norm)[:2], x, *parameters(attn, norm))


def test_gradients_with_dropout():
    attn, norm = layer(dropout=0.4)
    x = torch.randn(11, 6, dtype=D64, requires_grad=True)

    def seeded(x, *_):
        torch.manual_seed(1)
        return attn.long(x, norm, residual=True)

    agrees_with_differences(seeded, x, *parameters(attn, norm))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("n", [5, 9, 7])  # four tokens to fill, none, two
def test_gradients_of_the_tokens(monkeypatch, n, zeros):
    monkeypatch.setitem(stream.CHUNK, "cpu", 2)
    torch.manual_seed(0)
    x, w, b, t = (torch.randn(*s, dtype=D64, requires_grad=True) for s in ((n, 3), (4, 3), (4,), (4,)))
    agrees_with_differences(lambda *a: SquareTokens.apply(*a, 3, zeros), x, w, b, t)
    h = F.relu(F.linear(x, w, b))
    wanted = torch.cat([t[None], h, 0 * h[: 9 - n] if zeros else h[: 9 - n]])
    torch.testing.assert_close(SquareTokens.apply(x, w, b, t, 3, zeros), wanted)


@pytest.mark.parametrize("variant", ["3", "5", "7", "pyramid"])
def test_position_encoding_equals_three_convolutions_and_its_gradients_theirs(monkeypatch, variant):
    monkeypatch.setattr(ppeg, "TILE", 4)
    monkeypatch.setattr(ppeg, "SLAB", 30)
    torch.manual_seed(0)
    module = PPEG(3, variant).double()
    for side in (1, 2, 9, 10):
        h = torch.randn(1 + side * side, 3, dtype=D64, requires_grad=True)
        grid = h[1:].T.reshape(1, 3, side, side)
        plain = grid + sum(conv(grid) for conv in module.children())
        wanted = torch.cat([h[:1], plain.flatten(2)[0].T])
        weights = torch.randn_like(wanted)
        expected = torch.autograd.grad((wanted * weights).sum(), [h, *module.parameters()])
        for got in (module.tokens(h, side), torch.cat([h[:1], module(h[1:].view(1, side, side, 3)).view(-1, 3)])):
            torch.testing.assert_close(got, wanted)
            actual = torch.autograd.grad((got * weights).sum(), [h, *module.parameters()])
            for a, b in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, b)


def test_position_encoding_of_many_small_grids():
    torch.manual_seed(0)
    module = PPEG(2, "pyramid").double()
    x = torch.randn(3, 4, 5, 2, dtype=D64, requires_grad=True)
    agrees_with_differences(lambda x, *_: module(x), x, *module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["3", "7"])
def test_position_encoding_written_over_the_tokens(monkeypatch, variant, dtype):
    """Slabs of 1 to 3 rows, or of no fewer than the kernel reaches: each needs rows the one before has overwritten."""
    torch.manual_seed(0)
    module, h = PPEG(3, variant), torch.randn(1 + 81, 3)
    for slab in (9, 27, 81, 1000):
        monkeypatch.setattr(ppeg, "SLAB", slab)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            wanted, over = module.tokens(h, 9), h.clone()
            module.tokens_in_place(over, 9)
        assert torch.equal(over, wanted)


def test_weights_of_a_chunk_in_bfloat16_keep_to_the_softmax_at_the_ends_of_its_range():
    """Plain exponentials where they are safe, the fused softmax where they overflow or vanish."""
    torch.manual_seed(0)
    for shift in (0.0, 200.0, -200.0, 85.0, -85.0):
        scores = (torch.randn(2, 3, 300) + shift).bfloat16()
        weights, offset, lse = stream.chunk_weights(scores)
        exact = scores.double()
        torch.testing.assert_close(lse.double(), exact.logsumexp(-1, keepdim=True), atol=4e-3, rtol=0)
        again, same, _ = stream.chunk_weights(scores.clone(), offset)
        for w, o in ((weights, offset), (again, same)):
            shares = w.double() * torch.exp(o.double() - exact.logsumexp(-1, keepdim=True))
            torch.testing.assert_close(shares, torch.softmax(exact, -1), atol=1e-4, rtol=8e-3)


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 6])
def test_a_row_times_the_pseudo_inverse_is_the_row_of_the_whole(iterations):
    torch.manual_seed(0)
    a = torch.softmax(torch.randn(2, 3, 20, 20, dtype=D64), dim=-1)
    row = torch.randn(2, 3, 1, 20, dtype=D64)
    eye = torch.eye(20, dtype=D64).expand(2, 3, 20, 20)
    torch.testing.assert_close(
        pinv.row_times_pinv(row, a, iterations), row @ pinv.pinv_times(a, eye, iterations), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize(("begin", "end"), [(0, 5), (0, 32), (3, 90), (64, 100), (99, 100)])
def test_value_convolution_and_its_gradient(begin, end):
    torch.manual_seed(0)
    v = torch.randn(100, 2, 3, dtype=D64, requires_grad=True)
    weight = torch.randn(2, 33, dtype=D64, requires_grad=True)
    wanted = F.conv2d(v.permute(1, 0, 2)[None], weight[:, None, :, None], padding=(16, 0), groups=2)[0]
    wanted = wanted.permute(1, 0, 2)[begin:end]
    out = torch.ones(2, end - begin, 3, dtype=D64)
    flat = v.detach().flatten(1)
    value_conv.add_convolved(out, value_conv.band(weight.detach(), 32, 64, 0), flat, begin, end)
    torch.testing.assert_close(out, 1 + wanted.detach().transpose(0, 1))
    grad = torch.randn(100, 6, dtype=D64)
    (expected,) = torch.autograd.grad(wanted.flatten(1), weight, grad[begin:end])
    torch.testing.assert_close(value_conv.weight_gradient(flat, grad, 2, begin, end), expected)


@pytest.mark.parametrize("rows", [40, 41, 97])
def test_chunks_do_not_matter(monkeypatch, rows):
    attn, norm = layer(landmarks=8)
    x = torch.randn(rows, 6, dtype=D64)

    def answers(chunk):
        monkeypatch.setitem(stream.CHUNK, "cpu", chunk)
        leaf = x.clone().requires_grad_()
        out, (first, _, weights) = attn.long(leaf, norm, residual=True), attn.long_first(leaf, norm)
        grads = torch.autograd.grad(out.square().sum() + first.square().sum(), [leaf, *parameters(attn, norm)])
        return [out, first, weights, *grads]

    whole = answers(10**6)
    for chunk in (1, 5, 16, rows):
        for a, b in zip(answers(chunk), whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_inference_between_two_buffers_equals_training_mode_of_the_graph(dtype):
    attn, norm = layer(landmarks=8)
    attn, norm = attn.float().eval(), norm.float().eval()
    x = torch.randn(70, 6)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        wanted = attn.long(x, norm, residual=True)
        first = attn.long_first(wanted, norm)
        with torch.no_grad():
            h, spare = x.clone(), torch.empty_like(x, dtype=dtype)
            attn.long_in_place(h, spare, norm)
            other = attn.long_first(h, norm, spare)
    torch.testing.assert_close(h, wanted, atol=1e-6, rtol=1e-5)
    for a, b in zip(other, first, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_backward_twice_through_a_kept_graph():
    attn, norm = layer()
    x = torch.randn(30, 6, dtype=D64, requires_grad=True)
    out = attn.long_first(attn.long(x, norm, residual=True), norm)[0].sum()
    (once,) = torch.autograd.grad(out, x, retain_graph=True)
    (again,) = torch.autograd.grad(out, x)
    assert torch.equal(once, again)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_share_and_the_mean(p):
    torch.manual_seed(0)
    rows, dim = 1000, 333  # not a multiple of four draws
    drop = Dropout.draw(rows, dim, p, torch.device("cpu"))
    count = rows * dim
    assert abs(float(drop.keep.float().mean()) - (1 - p)) < 5 * (p * (1 - p) / count) ** 0.5
    assert drop.factor == pytest.approx(1 / (1 - p), rel=2e-5)
    kept = drop(torch.ones(rows, dim), 0, rows)
    assert kept.unique().tolist() == pytest.approx([0, drop.factor])
    # Neighbours come from one draw of 64 bits: they must not know of each other.
    pairs = (~drop.keep[:, :-1] & ~drop.keep[:, 1:]).float().mean()
    assert float(pairs) == pytest.approx(p * p, abs=5 * p / count**0.5)


def test_dropout_at_both_ends():
    assert Dropout.draw(3, 5, 0.0, torch.device("cpu")).keep is None
    everything = Dropout.draw(3, 5, 1.0, torch.device("cpu"))
    assert float(everything(torch.ones(3, 5), 0, 3).abs().sum()) == 0


def test_dropout_acts_in_training_mode_without_a_graph_too():
    attn, norm = layer(dropout=0.5)
    x = torch.randn(30, 6, dtype=D64)
    with torch.no_grad():
        attn.train()
        torch.manual_seed(1)
        free = attn.long(x, norm)
    torch.manual_seed(1)
    graph = attn.long(x.clone().requires_grad_(), norm)
    torch.testing.assert_close(free, graph.detach())
    assert int((free == 0).sum()) > 0
    assert int((attn.eval().long(x, norm) == 0).sum()) == 0


def test_nothing_as_large_as_rows_times_landmarks_is_made(monkeypatch):
    """The largest tensor of a step is what the plan says: (T, dim), or a chunk's scores."""
    monkeypatch.setitem(stream.CHUNK, "cpu", 32)
    attn, norm = layer(landmarks=64)
    rows, dim, largest = 2000, 6, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                if isinstance(t, torch.Tensor):
                    largest = max(largest, t.numel())
            return out

    x = torch.randn(rows, dim, dtype=D64, requires_grad=True)
    with Watch():
        attn.long_first(attn.long(x, norm, residual=True), norm)[0].sum().backward()
    chunks = -(-rows // 32)
    assert largest <= max(rows * dim, 2 * 64 * 64, chunks * 2 * 64)
    assert largest < 2 * rows * 64 / 8


def test_plan_of_autocast_and_of_full_precision():
    h = torch.zeros(300, 8)
    assert Plan.of(h, 2, 256, 1e-5).pad == 212
    assert Plan.of(h, 2, 256, 1e-5).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Plan.of(h, 2, 256, 1e-5).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_are_those_of_full_precision(dtype):
    """Relative to the norm of each gradient; half precision has 8 or 11 bits."""
    torch.manual_seed(0)
    attn, norm = NystromAttention(64, 2, 64, 6, True, 0.0), nn.LayerNorm(64)
    x = torch.randn(300, 64)

    def gradients(enabled):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            out = attn.long(leaf, norm, residual=True)
            first, _, _ = attn.long_first(out, norm)
        loss = 8 * (first.float().square().sum() + out.square().mean())
        return torch.autograd.grad(loss, [leaf, *parameters(attn, norm)])

    for half, full in zip(gradients(True), gradients(False), strict=True):
        assert float((half - full).norm()) <= (0.05 if dtype == torch.bfloat16 else 0.01) * float(full.norm()) + 1e-6


def test_the_spare_buffer_is_used_and_no_graph_is_kept_without_gradient():
    attn, norm = layer(landmarks=8)
    attn, norm = attn.eval(), norm.eval()
    h = torch.randn(70, 6, dtype=D64)
    spare = torch.full_like(h, 7.0)
    with torch.no_grad():
        attn.long_first(h, norm, spare)
    assert not (spare == 7).any()
    sizes = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        attn.long_first(h, norm)
        attn.long(h, norm)
    assert sizes == []


def test_dropout_follows_its_own_module():
    """Dropout at prediction time, as it is often done: everything in eval mode but the dropout."""
    attn, norm = layer(dropout=0.5)
    attn.eval().to_out[1].train()
    assert attn.drops
    with torch.no_grad():
        assert int((attn.long(torch.randn(30, 6, dtype=D64), norm) == 0).sum()) > 0

"""The pooling matrix: how a method mixes the instances of one bag.

A pooling is Y = g(P F(X)) (Shao et al. 2021): F makes a representation of every instance, P is n x n, and g reads the
rows of P F. Max pooling has one non-zero entry, on the diagonal; mean pooling a constant diagonal; ABMIL a free
diagonal; a method whose instances see each other before they are pooled has entries off the diagonal.

Here ``P[i, j] >= 0`` is how much of instance j reaches the bag representation by way of the row of instance i, and all
entries sum to 1. It is computed numerically, in float64 and eval mode, from the method itself, by the first of three
definitions that applies. Each holds weights for what they are, numbers that multiply: that a softmax lets every
instance push the weights of all others up or down is not mixing, and stays off the matrix.

``contributions``
    The method takes its bag representation apart itself (a method ``contributions(bags)``, as TransMIL's): with
    attention weights and layer-norm scales held at their values, everything from the embedded instances f_j on is
    linear, and the bag representation a sum of parts c_ij, "f_j, read at row i". P[i, j] = |c_ij| / |f_j|. Where it
    returns None, the bag has no such parts and the next definition is tried.

``weights``
    The bag representation equals sum_i a_i z_i, a the attention that the method returns and z_i the representation of
    instance i alone, in a bag of one; checked, not assumed. P = diag(a), the mean over heads.

``derivatives``
    What any differentiable method allows. For every component z of the bag representation, D_i its gradient at instance
    i and H_ij its mixed second derivative, both at the scale s of the bag's own spread: P[i, i] = s |D_i| and
    P[i, j] = s^2 |R_ij| / 2, the terms of a Taylor expansion, with R_ij what is left of H_ij after the best
    -(D_i n_j' + n_i D_j') has been taken off. That is exactly the form of H_ij for a quotient of two sums over the
    instances, n the gradient of the logarithm of the one below (a softmax's), and for a function of one sum; so these
    come out diagonal. H by central differences of gradients along random directions. The average over components.

The bag representation is `BagOutput.embedding`, and the logits where a method has none. A curved head then counts as
mixing under ``derivatives``, and so do several normalisers in one component (heads that are projected together).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from ..aggregator import Aggregator
from ..bags import BagOutput, Bags
from ..errors import MilbenchError

Definition = Literal["contributions", "weights", "derivatives"]

#: What each definition says, in a sentence.
DEFINITIONS: dict[str, str] = {
    "contributions": "composed linear parts: what instance j brings into the bag representation through row i, over "
    "the size of its own embedding, with attention weights and layer-norm scales held at their values",
    "weights": "attention weights: the bag representation is their sum over the representations of the instances "
    "alone, which was checked",
    "derivatives": "Jacobian and mixed second derivatives of the bag representation, less what one normaliser shared "
    "by all instances explains",
}

MOST = 256  # instances; parts are (n, n, dim)
COMPONENTS = 64  # of the bag representation that are differentiated
PAIRS = 2  # of random directions
STEP = 1e-7  # of the central differences, in spreads of the bag
JITTER = 1e-4  # that parts equal features, in spreads of the bag
ROWS = 1 << 15  # of one batch of copies of a bag
REWEIGHTED = 12  # times that the fit of a normaliser is repeated
RIDGE = 1e-13
_AGREES = 1e-5
_NOISE = 1e-5  # second derivatives smaller than this, of the largest first one, are rounding


@dataclass(frozen=True)
class PoolingMatrix:
    """A pooling matrix.

    Attributes:
        matrix: ``(n, n)`` float64, entries at least 0, their sum 1: the mean of `components`.
        definition: ``contributions``, ``weights`` or ``derivatives``; see `DEFINITIONS`.
        components: ``(c, n, n)``, each summing to 1: a matrix a head (``weights``) or a component of the bag
            representation (``derivatives``; max pooling has one entry in each), or the one there is.
    """

    matrix: np.ndarray
    definition: Definition
    components: np.ndarray

    @property
    def off_diagonal(self) -> float:
        """Share of the mass off the diagonal, from 0 (every instance on its own) to 1."""
        return float(self.matrix[~np.eye(len(self.matrix), dtype=bool)].sum())


def pooling_matrix(model: Aggregator, bags: Bags, definition: Definition | None = None) -> PoolingMatrix:
    """Compute the pooling matrix of a method on one bag.

    Args:
        model: the method; it is copied, and left as it is.
        bags: one bag of n <= 256 instances.
        definition: ask for one definition; None: the first that applies.

    Raises:
        MilbenchError: several bags or too many instances, a definition that does not apply, or, for ``derivatives``,
            2 or 3 instances, or a bag representation that does not depend on its instances.
    """
    if len(bags) != 1:
        raise MilbenchError(
            f"a pooling matrix belongs to one bag; give it one of the {len(bags)}, bags[0] say.",
            code="interpret-bad-input",
        )
    if (n := bags.lengths[0]) > MOST:
        raise MilbenchError(
            f"a pooling matrix of {n} x {n} is too large; give at most {MOST} instances.",
            code="interpret-bad-input",
        )
    model = copy.deepcopy(model).double().eval()
    bags = bags.to(dtype=torch.float64)
    name = type(model).__name__
    ways = {"contributions": _contributions, "weights": _weights, "derivatives": _derivatives}
    for way in ways if definition is None else (definition,):
        if (matrices := ways[way](model, bags)) is not None:
            values = matrices.detach().cpu().numpy()
            values = values[values.sum(axis=(1, 2)) > 0]  # a component that nothing moves has no matrix
            if not len(values):
                raise MilbenchError(
                    f"the bag representation of {name} does not depend on its instances.",
                    code="pooling-matrix-undefined",
                )
            values = values / values.sum(axis=(1, 2), keepdims=True)
            return PoolingMatrix(values.mean(axis=0), cast("Definition", way), values)
    lacks = "takes its bag representation apart" if definition == "contributions" else "is a weighted sum of instances"
    raise MilbenchError(
        f"{name} has no pooling matrix by {definition}: nothing says that it {lacks}; leave it out.",
        code="pooling-matrix-undefined",
    )


# -- the method's own parts, or its weights
# -----------------------------------------------------------------------------------------------------------


def _contributions(model: Aggregator, bags: Bags) -> Tensor | None:
    if not model.has_own("contributions"):
        return None
    with torch.no_grad():
        returned = model.contributions(bags)
    if returned is None:  # not for this model, or not for this bag
        return None
    (parts, own), n = returned, len(bags.x)
    if parts.shape[:2] != (n, n) or own.shape[:1] != (n,):
        shapes = f"{tuple(parts.shape)} and {tuple(own.shape)}"
        name = type(model).__name__
        raise MilbenchError(
            f"{name}.contributions returns {shapes}; for {n} instances ({n}, {n}, e) and ({n}, e') are due.",
            code="model-bad-output",
        )
    size = own.norm(dim=-1)
    # An instance whose embedding is zero brings nothing.
    return torch.where(size > 0, parts.norm(dim=-1) / size, 0.0)[None]


def _weights(model: Aggregator, bags: Bags) -> Tensor | None:
    with torch.no_grad():
        together = model(bags, attention=True)
        if together.attention is None:
            return None
        alone = _representation(model(Bags(bags.x, [1] * len(bags.x), bags.coords)))
    a, whole = together.attention.double(), _representation(together)
    heads = a.shape[1]
    if whole.shape[1] % heads:
        return None
    summed = torch.einsum("nh,nhe->he", a, alone.unflatten(1, (heads, -1))).flatten()
    if float((summed - whole[0]).abs().max()) > _AGREES * float(torch.cat([whole, alone]).abs().max()):
        return None
    return torch.diag_embed(a.T)


def _representation(out: BagOutput) -> Tensor:
    return (out.logits if out.embedding is None else out.embedding).double()


# -- derivatives
# -----------------------------------------------------------------------------------------------------------


def _derivatives(model: Aggregator, bags: Bags) -> Tensor:
    n, d = bags.x.shape
    if n == 1:
        return bags.x.new_ones(1, 1, 1)
    if n < 4:
        raise MilbenchError(
            f"mixing cannot be separated from a common normaliser with {n} instances; give at least 4.",
            code="interpret-bad-input",
        )
    rng = torch.Generator().manual_seed(0)
    spread = float((bags.x - bags.x.mean(dim=0)).square().mean().sqrt()) or 1.0
    x = _untied(bags.x, spread, rng)
    with torch.no_grad():
        width = _representation(model(Bags(x, [n], bags.coords))).shape[1]
    wanted = torch.linspace(0, width - 1, min(width, COMPONENTS)).round().long().to(x.device)

    first = spread * _gradients(model, x.expand(len(wanted), n, d), wanted, bags.coords)  # (c, n, d)
    sizes = first.norm(dim=-1)
    squares = torch.zeros(len(wanted), n, n, dtype=x.dtype, device=x.device)
    for _ in range(PAIRS):
        u, w = torch.randn(2, d, dtype=x.dtype, generator=rng).to(x.device)
        second = torch.stack([_second(model, x, bags.coords, c, spread, u, w) for c in wanted])
        squares += _residual(second, first @ w, first @ u).square()
    off = ((squares + squares.mT) / (2 * PAIRS)).sqrt() / 2
    off = torch.where(off > _NOISE * sizes.amax(dim=1)[:, None, None], off, 0.0)
    return off + torch.diag_embed(sizes)


def _untied(x: Tensor, spread: float, rng: torch.Generator) -> Tensor:
    """Move features apart that are equal in two instances: a maximum has no derivative where two are the largest."""
    if not bool((x.sort(dim=0).values.diff(dim=0) == 0).any()):
        return x
    noise = torch.randn(x.shape, dtype=x.dtype, generator=rng).to(x.device)
    return x + JITTER * spread * noise


def _gradients(model: Aggregator, xs: Tensor, components: Tensor, coords: Tensor | None) -> Tensor:
    """Gradients of one component of the bag representation for each of B copies of a bag.

    Args:
        model: the method.
        xs: ``(B, n, d)``.
        components: ``(B,)``.
        coords: ``(n, 2)`` of the bag.

    Returns:
        ``(B, n, d)``.
    """
    n, out = xs.shape[1], []
    step = max(1, ROWS // n)
    for part, which in zip(xs.split(step), components.split(step), strict=True):
        rows = part.reshape(-1, xs.shape[2]).detach().requires_grad_()
        places = None if coords is None else coords.repeat(len(part), 1)
        z = _representation(model(Bags(rows, [n] * len(part), places)))
        chosen = z.gather(1, which[:, None]).sum()
        if not chosen.requires_grad:
            raise MilbenchError(
                f"{type(model).__name__} cannot be differentiated: its output keeps no gradient.",
                code="pooling-matrix-undefined",
            )
        (grad,) = torch.autograd.grad(chosen, rows, allow_unused=True)
        out.append((torch.zeros_like(rows) if grad is None else grad).view_as(part))
    return torch.cat(out)


def _second(model: Aggregator, x: Tensor, coords: Tensor | None, component: Tensor, spread: float, u: Tensor,
            w: Tensor) -> Tensor:  # fmt: skip
    """w' H_ij u at the scale of the spread: ``(n, n)``, by central differences of gradients along u at each j."""
    n = len(x)
    moved = x.repeat(2 * n, 1, 1)
    at = torch.arange(n, device=x.device)
    moved[at, at] += STEP * spread * u
    moved[n + at, at] -= STEP * spread * u
    up, down = _gradients(model, moved, component.expand(2 * n), coords).chunk(2)
    return (spread * ((up - down) / (2 * STEP)) @ w).T


def _residual(second: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Take off what -(left_i nu_j + mu_i right_j) explains, off the diagonal.

    The fit is that of least absolute residuals, by least squares weighted anew again and again: where a normaliser
    explains most pairs and a few interact in addition, squares would spread those few over all pairs.

    Args:
        second: ``(c, n, n)``.
        left: ``(c, n)``.
        right: ``(c, n)``.

    Returns:
        ``(c, n, n)``, zero on the diagonal.
    """
    n, size = second.shape[1], second.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-300)
    pairs = 1 - torch.eye(n, dtype=second.dtype, device=second.device)
    residual, weights = second * pairs, pairs.expand_as(second)
    scale = torch.cat([left, right], dim=1).abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    left, right = left / scale, right / scale
    for step in range(REWEIGHTED):
        nu = torch.einsum("cij,ci->cj", weights, left**2)
        mu = torch.einsum("cij,cj->ci", weights, right**2)
        both = weights * left[:, :, None] * right[:, None]  # (c, i of mu, j of nu)
        normal = torch.cat(
            [torch.cat([torch.diag_embed(nu), both.mT], 2), torch.cat([both, torch.diag_embed(mu)], 2)], 1
        )
        wanted = torch.cat([torch.einsum("cij,cij,ci->cj", weights, second, left),
                            torch.einsum("cij,cij,cj->ci", weights, second, right)], 1)  # fmt: skip
        # (nu, mu) = (right, -left) changes nothing, so the matrix is singular: a little on its diagonal settles that.
        unit = torch.cat([nu, mu], dim=1).clamp(min=1e-300).rsqrt()
        normal = unit[:, :, None] * normal * unit[:, None] + RIDGE * torch.eye(2 * n, dtype=nu.dtype, device=nu.device)
        fit = unit * torch.linalg.solve(normal, unit * wanted)
        residual = pairs * (second - left[:, :, None] * fit[:, None, :n] - fit[:, n:, None] * right[:, None])
        weights = pairs / (residual.abs() / size + 0.1 ** (1 + step / 2))
    return residual

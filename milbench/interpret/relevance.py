"""Interpretability with a score: what a method attends to, and whether that is where its prediction comes from.

Every instance gets one score: its attention where the method returns any, otherwise gradient times input. No N x N
matrix is made for any method (TransMIL's attention is the class token's row, composed through the Nystrom factors). The
scores are evaluated in three ways:

* against instance labels, where there are any: the AUC within a bag, and over all bags together;
* by how concentrated they are: the entropy of the attention over log n, 0 for one instance, 1 for an even spread;
* by deletion and insertion (Petsiuk et al., RISE, BMVC 2018, for images): how the probability of a class falls while
  the instances of the highest scores are taken out of the bag, and how it rises while they are put in, compared with
  instances in random order. A bag of fewer instances is a bag: nothing has to be blanked.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sk
from torch import Tensor

from ..aggregator import Aggregator
from ..atomic_io.checksums import checksum
from ..atomic_io.publishing import child, write_atomic, write_figure
from ..bags import Bags
from ..data.cache.reader import FeatureCache
from ..errors import MilbenchError
from ..training.loader import BagLoader, Standardizer

if TYPE_CHECKING:
    from .figures import Scale

Source = Literal["attention", "gradient x input"]

ROWS = 1 << 16  # of one batch of parts of a bag, unless a single part is longer


@dataclass(frozen=True)
class Relevance:
    """One score an instance.

    Attributes:
        scores: ``(N,)`` fp32, in row order. Attention is over its mean in the bag, so that 1 is an even share and bags
            of different lengths compare; gradient times input is as it is, and has a sign.
        source: where they come from.
        attention: ``(N, h)`` as the method returned it, or None.
        targets: ``(B,)`` int64, the class of each bag that its scores are about.
    """

    scores: Tensor
    source: Source
    attention: Tensor | None
    targets: Tensor


def relevance(model: Aggregator, bags: Bags, targets: ArrayLike | Tensor | None = None,
              source: Source | None = None) -> Relevance:  # fmt: skip
    """Score the instances of B bags.

    Args:
        model: the method; evaluated in eval mode, and left as it is.
        bags: on the device of the model.
        targets: ``(B,)`` class of each bag that the scores are about; None: the predicted one. It chooses the column of
            a method with an attention of its own for every class (``attention_by_class``), and the logit that is
            differentiated; other methods' heads are averaged.
        source: None: attention where the method returns it.

    Raises:
        MilbenchError: attention is requested and the method returns none, or a target is no class.
    """
    with _evaluated(model), torch.no_grad():
        out = model(bags, attention=source != "gradient x input")
        chosen = _targets(targets, model.probabilities(out))
    if out.attention is not None:
        weights = _column(model, out.attention, chosen[bags.index]).double()
        # In fp64 and rounded: even shares of bags of different lengths are the same 1, not ones that differ by a bit.
        shares = torch.cat([part / part.mean() for part in weights.split(list(bags.lengths))]).float()
        return Relevance(shares, "attention", out.attention, chosen)
    if source == "attention":
        name = type(model).__name__
        raise MilbenchError(
            f'{name} returns no attention; ask for source="gradient x input", or leave it out.',
            code="attention-missing",
        )
    return Relevance(_gradient_times_input(model, bags, chosen), "gradient x input", None, chosen)


def attention_entropy(attention: Tensor, bags: Bags) -> Tensor:
    """Entropy of the attention of each bag over log n: ``(N, h) -> (B, h)`` in [0, 1]; NaN for a bag of one instance.

    Weights that do not sum to 1 in a bag are made to.
    """
    entropies = []
    for weights in attention.double().split(list(bags.lengths)):
        shares = weights / weights.sum(dim=0)
        nats = torch.special.entr(shares).sum(dim=0)
        entropies.append(nats / np.log(len(shares)) if len(shares) > 1 else torch.full_like(nats, torch.nan))
    return torch.stack(entropies)


@dataclass(frozen=True)
class InstanceAUC:
    """How well scores find the positive instances.

    Attributes:
        bags: ``(B,)`` AUC within each bag; NaN where a bag does not hold both labels.
        pooled: AUC over the labelled instances of all bags together, or NaN.
    """

    bags: NDArray[np.float64]
    pooled: float

    @property
    def counted(self) -> int:
        """Number of bags in which it is defined."""
        return int(np.isfinite(self.bags).sum())

    @property
    def mean(self) -> float:
        """Mean over the bags in which it is defined, or NaN."""
        return float(np.nanmean(self.bags)) if self.counted else float("nan")


def instance_auc(scores: ArrayLike, labels: ArrayLike, lengths: Sequence[int]) -> InstanceAUC:
    """AUC of instance scores against instance labels.

    Args:
        scores: ``(N,)``.
        labels: ``(N,)``: 1 positive, 0 negative, -1 not labelled, which is left out.
        lengths: the B bag lengths.

    Raises:
        MilbenchError: scores, labels and lengths do not fit each other, or a label is none of these.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if s.shape != y.shape or s.ndim != 1 or sum(lengths) != len(s):
        raise MilbenchError(
            f"scores {s.shape}, labels {y.shape} and bags of {sum(lengths)} rows in all do not fit.",
            code="interpret-bad-input",
        )
    if strange := sorted(set(y.tolist()) - {-1, 0, 1}):
        raise MilbenchError(
            f"instance labels are 1, 0 or -1 (not labelled), not {strange[0]!r}.", code="interpret-bad-input"
        )
    ends = np.cumsum(lengths)
    each = [_auc(s[end - n : end], y[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
    return InstanceAUC(np.array(each), _auc(s, y))


@dataclass(frozen=True)
class Curves:
    """Probability of a class on parts of one bag.

    Attributes:
        kept: ``(S,)`` instances a part has, from 1 to n.
        insertion: ``(S,)`` on the instances with the highest scores.
        deletion: ``(S,)`` on those with the lowest: what is left when the others have been taken out.
        random: ``(S,)`` on instances drawn at random, the mean over several orders.
    """

    kept: NDArray[np.int64]
    insertion: NDArray[np.float64]
    deletion: NDArray[np.float64]
    random: NDArray[np.float64]

    @property
    def insertion_auc(self) -> float:
        """Area under the insertion curve over the share that is in the bag; above `random_auc`: scores point right."""
        return self._area(self.insertion)

    @property
    def deletion_auc(self) -> float:
        """Area under the deletion curve over the share taken out; below `random_auc`: scores point right."""
        return self._area(self.deletion)

    @property
    def random_auc(self) -> float:
        """Area under the random curve, which is the same for putting in and for taking out."""
        return self._area(self.random)

    def _area(self, values: NDArray[np.float64]) -> float:
        share = (self.kept - 1) / (self.kept[-1] - 1)
        return float(sk.auc(share, values))


def removal_curves(model: Aggregator, bag: Bags, scores: ArrayLike | Tensor, target: int, steps: int = 20,
                   repeats: int = 10, seed: int | Sequence[int] = 0) -> Curves:  # fmt: skip
    """Follow the probability of a class while instances are put into one bag, or taken out of it.

    Rows keep their order in every part, as some methods read it. Equal scores are in random order, and the curves are
    means over these orders: scores that are all the same have the random curve.

    Args:
        model: the method; evaluated in eval mode, and left as it is.
        bag: one bag of n >= 2 instances, on the device of the model.
        scores: ``(n,)``.
        target: the class.
        steps: parts of a curve after the first, at most n - 1.
        repeats: random orders.
        seed: of the random orders: a number, or several.

    Raises:
        MilbenchError: several bags, fewer than 2 instances, scores that do not fit, a target that is no class, or
            fewer than one step or repeat.
    """
    n = bag.lengths[0]
    s = torch.as_tensor(scores).detach().cpu()
    if len(bag) != 1 or n < 2:
        raise MilbenchError(
            f"curves follow one bag of at least 2 instances, not {len(bag)} of {bag.lengths}.",
            code="interpret-bad-input",
        )
    if tuple(s.shape) != (n,):
        raise MilbenchError(
            f"a bag of {n} instances needs ({n},) scores, got {tuple(s.shape)}.", code="interpret-bad-input"
        )
    if steps < 1 or repeats < 1:
        raise MilbenchError(
            f"curves need at least one step and one repeat, got {steps} and {repeats}.", code="interpret-bad-input"
        )
    kept = np.unique(np.linspace(1, n, min(steps, n - 1) + 1).round().astype(np.int64))
    rng = np.random.default_rng(seed)
    drawn = [torch.from_numpy(rng.permutation(n)) for _ in range(repeats)]
    ways = drawn if len(s.unique()) < n else drawn[:1]
    highest = [some[torch.argsort(s[some], descending=True, stable=True)] for some in ways]
    lowest = [some[torch.argsort(s[some], stable=True)] for some in ways]
    parts = [some[:k] for some in (*highest, *lowest, *drawn) for k in kept]
    curves = np.split(_probability(model, bag, parts, target).reshape(-1, len(kept)), [len(ways), 2 * len(ways)])
    return Curves(kept, *(some.mean(axis=0) for some in curves))


@dataclass(frozen=True)
class Interpretation:
    """Scores of a method's scores.

    Attributes:
        bags: one row a bag: ``slide_id``, ``instances``, ``target`` (class), ``source``, ``entropy`` (mean over heads),
            ``instance_auc``, ``insertion``, ``deletion`` and ``random`` (areas); NaN where something is not defined.
        pooled_auc: AUC over the labelled instances of all bags together, or NaN.
    """

    bags: pd.DataFrame
    pooled_auc: float

    def summary(self) -> dict[str, float]:
        """Means over the bags in which each is defined, and the pooled AUC."""
        names = ["entropy", "instance_auc", "insertion", "deletion", "random"]
        return {name: float(self.bags[name].mean()) for name in names} | {"pooled_instance_auc": self.pooled_auc}


def interpret(model: Aggregator, slides: Iterable[tuple[str, Bags]], targets: Mapping[str, int] | None = None,
              labels: Mapping[str, ArrayLike] | None = None, source: Source | None = None, steps: int = 20,
              repeats: int = 10, seed: int = 0) -> Interpretation:  # fmt: skip
    """Score the instances of slides with a trained model, and score the scores.

    Args:
        model: the method, trained.
        slides: id and one bag each, on the device of the model.
        targets: class of each slide that its scores are about; None: the predicted one.
        labels: instance labels of the slides that have them, ``(n,)`` of 1, 0 or -1 (not labelled).
        source: see `relevance`.
        steps: see `removal_curves`.
        repeats: see `removal_curves`.
        seed: of the random orders.

    Raises:
        MilbenchError: a slide without a target; see also `relevance`, `instance_auc` and `removal_curves`.
    """
    rows, every, known = [], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for slide, bag in slides:
        if targets is not None and slide not in targets:
            raise MilbenchError(
                f"targets has no class for slide {slide}; leave targets out, or give one for each.",
                code="interpret-bad-input",
            )
        given = None if targets is None else [targets[slide]]
        attributed = relevance(model, bag, given, source)
        values = attributed.scores.double().cpu().numpy()
        target = int(attributed.targets[0])
        row: dict[str, Any] = {
            "slide_id": slide,
            "instances": bag.lengths[0],
            "target": target,
            "source": attributed.source,
        }
        entropy = np.nan if attributed.attention is None else float(attention_entropy(attributed.attention, bag).mean())
        row |= {"entropy": entropy, "instance_auc": np.nan}
        if labels is not None and slide in labels:
            row["instance_auc"] = instance_auc(values, labels[slide], bag.lengths).bags[0]
            every.append(values)
            known.append(np.asarray(labels[slide]))
        row |= dict.fromkeys(("insertion", "deletion", "random"), np.nan)
        if bag.lengths[0] > 1:
            # Orders of a slide's own, the same in whatever company: shared ones would not average out.
            own = [seed, *slide.encode()]
            curves = removal_curves(model, bag, values, target, steps, repeats, own)
            row |= {"insertion": curves.insertion_auc, "deletion": curves.deletion_auc, "random": curves.random_auc}
        rows.append(row)
    if not rows:
        raise MilbenchError("there is no slide to interpret; give at least one.", code="interpret-bad-input")
    return Interpretation(pd.DataFrame(rows), _auc(np.concatenate(every), np.concatenate(known)))


def export_attention(model: Aggregator, cache: FeatureCache, slides: Sequence[str], folder: str | Path,
                     source: Source | None = None, heatmaps: bool = True, classes: Sequence[str] | None = None,
                     labels: Mapping[str, int] | None = None, scale: Scale = "auto",
                     scaling: Standardizer | None = None) -> list[Path]:  # fmt: skip
    """Write the scores of slides, and heatmaps where the cache has coordinates.

    A file ``<slide>.parquet`` a slide, one row an instance in the order of the cache: ``x`` and ``y`` (as in the
    cache), ``score`` (see `Relevance`), and ``attention_0`` ... ``attention_{h-1}`` where there is attention. Next to
    it ``<slide>.png``, whose title names slide, method, the class that the scores are about (the predicted one), its
    probability and, where it is known, the slide's label. Characters of an id that a file name cannot have are written
    as in URLs.

    Args:
        model: the method.
        cache: the features.
        slides: ids.
        folder: created where absent.
        source: see `relevance`.
        heatmaps: also draw them.
        classes: names of the classes, in the order of their indices; None: the indices.
        labels: slide -> class index, for the titles.
        scale: how scores become colours, see `milbench.interpret.figures.Scale`.
        scaling: of the features, where the method was trained on standardised ones.

    Returns:
        the files.

    Raises:
        MilbenchError: an unknown slide, or attention requested and none returned.
    """
    from .figures import heatmap_figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device, written = next(model.parameters()).device, []
    steps = cache.slides.set_index("slide_id")["coord_step"]
    for slide in slides:
        bag = BagLoader(cache, [slide], device, scaling).batch([0])
        attributed = relevance(model, bag, source=source)
        table = pd.DataFrame({"score": attributed.scores.float().cpu().numpy()})
        if bag.coords is not None:
            table.insert(0, "x", bag.coords[:, 0].cpu().numpy())
            table.insert(1, "y", bag.coords[:, 1].cpu().numpy())
        if attributed.attention is not None:
            columns = attributed.attention.float().cpu().numpy().T
            table = table.assign(**{f"attention_{i}": column for i, column in enumerate(columns)})
        name = quote(slide, safe=" ")
        name = f"%2E{name[1:]}" if name.startswith(".") else name
        if len(name) > 220:
            name = f"{name[:180]}-{checksum(slide.encode())[:16]}"
        written.append(child(folder, name, ".parquet", "slide"))
        out = io.BytesIO()
        table.to_parquet(out, index=False)
        write_atomic(written[-1], out.getvalue())
        if heatmaps and bag.coords is not None:
            step = None if pd.isna(steps.loc[slide]) else float(steps.loc[slide])
            places = table[["x", "y"]].to_numpy(np.float64)
            scores = table["score"].to_numpy(np.float64)
            title = _title(model, bag, slide, int(attributed.targets[0]), classes, labels)
            figure = heatmap_figure(places, scores, attributed.source, step, title=title, scale=scale)
            written.append(child(folder, name, ".png", "slide"))
            write_figure(written[-1], figure)
    return written


def _title(model: Aggregator, bag: Bags, slide: str, target: int, classes: Sequence[str] | None,
           labels: Mapping[str, int] | None) -> str:  # fmt: skip
    """Return what a heatmap shows: slide, method, class, its probability and the slide's label."""
    with _evaluated(model), torch.no_grad():
        probability = float(model.probabilities(model(bag))[0, target])
    names = [str(i) for i in range(model.n_classes)] if classes is None else list(classes)
    label = f", label {names[labels[slide]]}" if labels is not None and slide in labels else ""
    method = type(model).card.title if hasattr(type(model), "card") else type(model).__name__
    return f"{slide}: {method}, class {names[target]}, probability {probability:.3f}{label}"


@contextmanager
def _evaluated(model: Aggregator) -> Iterator[None]:
    """Put a model into eval mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _targets(targets: ArrayLike | Tensor | None, probabilities: Tensor) -> Tensor:
    if targets is None:
        return probabilities.argmax(dim=1)
    chosen = torch.as_tensor(targets, dtype=torch.int64, device=probabilities.device)
    classes = probabilities.shape[1]
    if chosen.shape != probabilities.shape[:1] or bool(((chosen < 0) | (chosen >= classes)).any()):
        raise MilbenchError(
            f"{len(probabilities)} bags need as many targets, each from 0 to {classes - 1}.", code="interpret-bad-input"
        )
    return chosen


def _column(model: Aggregator, attention: Tensor, target: Tensor) -> Tensor:
    """One weight an instance: that of its bag's target where every class has its own, the mean over heads elsewhere."""
    if model.attention_by_class and attention.shape[1] == model.n_classes:
        return attention.gather(1, target[:, None])[:, 0]
    return attention.mean(dim=1)


def _gradient_times_input(model: Aggregator, bags: Bags, targets: Tensor) -> Tensor:
    """Sum over features of x times the gradient of the target's log-odds, ``(N,)``."""
    dtype = next((p.dtype for p in model.parameters()), bags.x.dtype)
    x = bags.x.detach().to(dtype).requires_grad_()
    with _evaluated(model), torch.enable_grad():
        logits = model(bags.with_features(x)).logits
        if logits.shape[1] == 1:
            odds = logits[:, 0] * (2 * targets - 1)
        else:
            own = torch.nn.functional.one_hot(targets, logits.shape[1]).bool()
            odds = logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        (grad,) = torch.autograd.grad(odds.sum(), x)
    return (grad * x.detach()).sum(dim=1).float()


def _auc(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    known = labels >= 0
    positive = labels[known] == 1
    if not positive.any() or positive.all():
        return float("nan")
    return float(sk.roc_auc_score(positive, scores[known]))


def _probability(model: Aggregator, bag: Bags, parts: Sequence[Tensor], target: int) -> NDArray[np.float64]:
    """Probability of a class on parts of a bag, given as row numbers; many short parts at a time."""
    probabilities = []
    with _evaluated(model), torch.no_grad():
        for batch in _batches(parts):
            rows = torch.cat([part.sort().values for part in batch]).to(bag.device)
            coords = None if bag.coords is None else bag.coords[rows]
            p = model.probabilities(model(Bags(bag.x[rows], [len(part) for part in batch], coords)))
            if not 0 <= target < p.shape[1]:
                raise MilbenchError(
                    f"target {target} is no class: there are {p.shape[1]}, from 0.", code="interpret-bad-input"
                )
            probabilities.append(p[:, target].double().cpu())
    return torch.cat(probabilities).numpy()


def _batches(parts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    rows = 0
    for part in parts:
        if batch and rows + len(part) > ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(part)
        rows += len(part)
    yield batch

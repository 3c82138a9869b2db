"""Recipe: how a method is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .frozen import Frozen, added


class Recipe(Frozen):
    """How a method is trained. Every method is trained by one loop, from one of these.

    Attributes:
        optimizer: ``adam``, ``adamw``, ``sgd``, ``radam`` or ``lookahead-radam`` (Lookahead, k = 6, alpha = 0.5).
        lr: learning rate at the start of the schedule.
        weight_decay: L2 penalty, decoupled for ``adamw``.
        betas: Adam-type moment decay rates.
        momentum: of ``sgd``.
        schedule: course of the learning rate over the whole training, which is the budget, where that sets a length,
            else the steps of all epochs: ``constant``; ``cosine`` or ``linear``, from `lr` to `min_lr`; ``step``, a
            tenth of `lr` after half of the training and a hundredth after three quarters, at least `min_lr`;
            ``plateau``, `plateau_factor` times the rate whenever the monitored validation quantity (`Protocol.monitor`)
            has not improved for more than `plateau_patience` evaluations after the warm-up, at least `min_lr`, as
            torch's ``ReduceLROnPlateau`` with its other defaults. It needs validation slides. ``one-cycle`` rises
            along a cosine from `lr` / 25 to `lr` over the warm-up (the first 30 % where `warmup` is 0) and falls along
            another to `lr` / 250,000, at least `min_lr`, as torch's ``OneCycleLR`` by its defaults; moments stay.
        min_lr: lowest learning rate of every schedule but ``constant``, at most `lr`.
        warmup: share of the training over which the rate rises linearly to `lr` before the schedule begins.
        epochs: passes over the training bags, at most; a budget that sets a length takes their place.
        batch_size: bags in one forward pass; 1 in most of the literature.
        accumulate: forward passes whose gradients are averaged into one step.
        patience: epochs without improvement of the monitored validation quantity before training stops; None: never.
            Not used under a budget that sets a length: every method then uses the whole of it.
        grad_clip: largest gradient norm; None: no limit.
        clip_groups: whose norm `grad_clip` limits, each by `torch.nn.utils.clip_grad_norm_`: ``all``, one norm over all
            parameters; ``modules``, one over each module that is an attribute of the method (``encoder``, ``head`` ...)
            and one over the parameters that are attributes themselves: a large gradient of one part then does not
            shorten the steps of the others.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``; losses and softmax sums stay in fp32.
        class_weights: ``none``, or ``balanced``: the whole loss of a bag of class c (auxiliary terms of the method
            included) is multiplied by N / (K n_c), where n_c of the fold's N training bags are of class c and K classes
            occur. The mean weight over the training bags is 1, at every batch size.
        sampler: ``shuffle``, every training bag once an epoch; or ``balanced``, as many bags an epoch, drawn with
            replacement, every class with the same probability (CLAM's ``--weighted_sample``).
        plateau_factor: of ``plateau``: what the rate is multiplied by.
        plateau_patience: of ``plateau``: evaluations without improvement that change nothing.
        max_instances: instances of a training bag that a step sees, drawn anew without replacement at every step, in
            their order; None: all. Evaluation sees whole bags.
        ema_decay: decay of an exponential moving average of the parameters, taken after every step
            (`torch.optim.swa_utils.AveragedModel`); the averaged model is evaluated, selected and kept. None: the
            trained one.
        label_smoothing: share e of the label that is spread evenly over all C classes: a bag's loss is (1 - e) times
            that of its label plus e / C times the sum of the losses of every label. Of a cross-entropy that is torch's
            ``label_smoothing``; a method's auxiliary terms are averaged in the same way.
    """

    optimizer: Literal["adam", "adamw", "sgd", "radam", "lookahead-radam"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "linear", "step", "plateau", "one-cycle"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    patience: int | None = Field(None, ge=1)
    grad_clip: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    min_lr: float = added(0.0, since="0.2.0", ge=0)
    class_weights: Literal["none", "balanced"] = added("none", since="0.2.0")
    sampler: Literal["shuffle", "balanced"] = added("shuffle", since="0.2.0")
    label_smoothing: float = added(0.0, since="0.2.0", ge=0, lt=1)
    plateau_factor: float = added(0.1, since="0.2.0", gt=0, lt=1)
    plateau_patience: int = added(10, since="0.2.0", ge=0)
    max_instances: int | None = added(None, since="0.2.0", ge=1)
    ema_decay: float | None = added(None, since="0.2.0", gt=0, lt=1)
    clip_groups: Literal["all", "modules"] = added("all", since="0.2.0")

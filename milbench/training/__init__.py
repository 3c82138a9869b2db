"""Training of one model: loader, optimizers, loop, budget, and stacks of models."""

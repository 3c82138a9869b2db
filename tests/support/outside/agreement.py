"""A metric."""

import numpy as np


def agreement(labels, probabilities):
    """Return the share of bags whose most probable class is their label, in percent."""
    return 100.0 * float(np.mean(np.asarray(probabilities).argmax(axis=1) == np.asarray(labels)))

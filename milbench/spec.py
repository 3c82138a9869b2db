"""The former place of `milbench.config`; kept for plug-ins, for one release."""

from .config import *  # noqa: F403

"""``milbench env``: what this machine is."""

from __future__ import annotations

from ._terminal import echo_data


def env_command() -> None:
    """Print the environment record that every result carries (JSON).

    Example: milbench env
    """
    import json

    from ..measure.environment import environment

    echo_data(json.dumps(environment(), indent=2) + "\n")

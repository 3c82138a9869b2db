"""The packages of the distribution: ``milbench`` with all below it, and ``baselines``, as ``milbench.baselines``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["milbench", "milbench.*"]), "milbench.baselines"],
    package_dir={"milbench": "milbench", "milbench.baselines": "baselines"},
)

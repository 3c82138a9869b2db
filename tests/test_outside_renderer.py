"""A renderer of a package outside the tree shows a leaderboard of the command line."""

from support.outside_package import ENTRY_POINTS, install, milbench

SUITE = """
name = "shown"
methods = ["mean"]
device = "cpu"
cost = false
[recipe]
epochs = 1
[[data]]
name = "blobs"
dataset = "outside-blobs"
"""


def test_the_command_line_shows_a_leaderboard_by_the_packages_renderer(tmp_path):
    site = install(tmp_path, ENTRY_POINTS | {"milbench.renderers": {"outside-outline": "outside.outline:outline"}})
    (tmp_path / "shown.toml").write_text(SUITE)
    assert milbench(tmp_path, site, "run", "shown.toml", "--results", "results").returncode == 0
    shown = milbench(tmp_path, site, "leaderboard", "results", "--format", "outside-outline", "--resamples", "20")
    assert shown.returncode == 0, shown.stderr
    first, *rest = shown.stdout.splitlines()
    assert first == "OUTLINE"
    assert any("blobs" in line for line in rest), rest
    unknown = milbench(tmp_path, site, "leaderboard", "results", "--format", "outside-outlin")
    assert unknown.returncode == 1
    assert "outside-outline" in unknown.stderr

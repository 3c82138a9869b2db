"""``milbench init``: what a cohort holds, which labels and patients it has, and the suite file for it."""

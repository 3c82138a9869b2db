"""Cost of a method: time, memory and operations on the slides of a cohort, and estimates before a run."""

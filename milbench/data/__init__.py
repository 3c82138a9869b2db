"""The data layer: feature caches, importers of other tools' files, splits, cohorts and the built-in datasets."""

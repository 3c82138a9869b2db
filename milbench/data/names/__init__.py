"""Names in tables: spellings of ids, labels and columns, matching of ids, patients in names of slides."""

"""Cost against bag length: one measurement, the sweep over lengths, and its table."""

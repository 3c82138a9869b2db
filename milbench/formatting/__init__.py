"""Values as text: counts, units and lists; escaping for each kind of output; TOML."""

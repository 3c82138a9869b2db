"""The compared methods: one self-contained file each, named as the registry names them."""

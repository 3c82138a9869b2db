"""A package of somebody else: `support.outside_package` installs a copy of it where no test and no milbench file is."""

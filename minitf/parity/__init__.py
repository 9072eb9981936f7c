"""Tools that compare two implementations of a model; import from the modules, which bear the names of the functions."""

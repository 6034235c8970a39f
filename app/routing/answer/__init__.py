"""Judge the answer of a model by itself and beside its request, without I/O."""

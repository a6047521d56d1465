"""C steps: the projections Π of learning-compression as pure functions on NumPy arrays."""

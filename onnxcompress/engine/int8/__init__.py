"""Quantising to 8 bits: what can be, which ranges activations take, what it costs."""

"""Encodings: how a weight is stored; one file each holds Θ, Δ, Π and the ONNX form."""

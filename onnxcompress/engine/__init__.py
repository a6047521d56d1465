"""Machinery that stages and methods share: the torch graph, training, data, onnxruntime, costs."""

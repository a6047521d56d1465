"""Operators: what is known of each ONNX operator; one file a family."""

"""The torch graph: an ONNX graph executed in torch, node by node."""

"""The variational information bottleneck: noisy gates in front of layers, and what they decide."""

"""Channel groups of any graph: labels on every axis of every constant, carried through the graph."""

from onnxcompress.engine.channels.analysis import analyse
from onnxcompress.engine.channels.channels import Channels
from onnxcompress.engine.channels.sites import silenced, site_key, site_masks, tapped

__all__ = ["Channels", "analyse", "silenced", "site_key", "site_masks", "tapped"]

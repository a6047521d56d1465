"""Tensors made from sizes: equal elements can be any number, counted ones stay."""

from __future__ import annotations

from onnxcompress.couplings._axes import fixed, is_cut
from onnxcompress.couplings._base import Crossing, Cut, coupling


def _shortened(cut: Cut) -> None:
    if is_cut(cut):
        cut.set_target_shape(0)


@coupling("ConstantOfShape", repair=_shortened)
def _constant_of_shape(crossing: Crossing) -> None:
    """Give every axis labels of its own: all elements are equal, so that any may go."""
    fixed(crossing, 0)
    for axis, size in enumerate(crossing.out_shape()):
        if size > 1:
            crossing.put(0, axis, crossing.fresh(size))


@coupling("Shape", "Size")
def _sizes(crossing: Crossing) -> None:
    """Carry nothing over: surgery lets them go on telling the sizes of before."""


@coupling("Range", "RandomNormal", "RandomUniform")
@coupling("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix")
def _counted(crossing: Crossing) -> None:
    """Give no labels: each element is another, so that what meets them is kept."""
    fixed(crossing, *range(crossing.inputs))

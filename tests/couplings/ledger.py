"""One node by itself: a crossing that notes what its rule says, and a cut that is carried out on arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxcompress.couplings._base import Crossing, Cut


class Alone(Crossing):
    """A node whose first input is data and whose others are constants; every axis longer than 1 has labels.

    Attributes:
        arrays: inputs, None where left out.
        results: outputs.
        frozen: label -> why.
        sites: (slot, axis) of every sum.
        consumed: (slot, axis) of weights summed over against the node's own state.
        mixed: labels that a normalisation mixes.
        out: (output, axis) -> labels.
    """

    def __init__(self, node, arrays, results, unlabelled=(), data=(0,)):
        self.node, self.arrays, self.results = node, list(arrays), results
        self.inputs = len(self.arrays)
        values = [None if a is None else _value(k, k in data) for k, a in enumerate(self.arrays)]
        self.source = ir.Node(node.domain, node.op_type, values, num_outputs=max(1, len(results)))
        self._data = set(data)
        self._parents = []
        self.frozen, self.sites, self.consumed, self.mixed, self.out = {}, [], [], [], {}
        self._labels = {
            (slot, axis): self.fresh(size)
            for slot, array in enumerate(self.arrays)
            if array is not None and slot not in unlabelled
            for axis, size in enumerate(array.shape)
            if size > 1
        }

    def present(self, slot):
        return slot < self.inputs and self.arrays[slot] is not None

    def shape(self, slot):
        return self.arrays[slot].shape

    def out_shape(self, output=0):
        return tuple(self.results[output].shape)

    def constant(self, slot):
        return None if slot in self._data or not self.present(slot) else self.arrays[slot]

    def data_free(self, slot):
        return self.present(slot) and slot not in self._data

    def labels(self, slot, axis):
        if not self.present(slot):
            return None
        return self._labels.get((slot, axis % max(1, len(self.shape(slot)))))

    def put(self, output, axis, labels):
        if labels is None:
            return
        axis %= len(self.out_shape(output))
        assert len(labels) == self.out_shape(output)[axis], (output, axis, len(labels))
        if (output, axis) in self.out:
            self.freeze(labels, "meets others")
            self.freeze(self.out[output, axis], "meets others")
        self.out[output, axis] = np.asarray(labels)

    def fresh(self, count):
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def merge(self, first, second):
        if first is None or second is None:
            self.freeze(second if first is None else first, "meets no channels")
            return second if first is None else first
        assert len(np.ravel(first)) == len(np.ravel(second))
        for a, b in zip(np.ravel(first), np.ravel(second), strict=True):
            self._parents[self.root(a)] = self.root(b)
        return first

    def root(self, label):
        while self._parents[label] != label:
            label = self._parents[label]
        return label

    def freeze(self, labels, why):
        if labels is not None:
            assert why
            self.frozen |= dict.fromkeys(np.ravel(labels).tolist(), why)

    def freeze_inputs(self, why):
        for labels in self._labels.values():
            self.freeze(labels, why)

    def mix(self, labels):
        if labels is not None:
            self.mixed += np.ravel(labels).tolist()

    def contract(self, slot, axis, other, weight=None):
        own = self.labels(slot, axis)
        axis %= len(self.shape(slot))
        assert own is not None or other is not None
        assert weight is None or self.labels(*weight) is not None or other is None
        if other is not None or weight is not None:
            self.merge(own, other)
        self.sites.append((slot, axis))

    def consume(self, slot, axis):
        self.consumed.append((slot, axis))

    def free_roots(self):
        """Return the components that hold no frozen label and are not all of any axis."""
        kept = {self.root(label) for label in self.frozen}
        for labels in (*self._labels.values(), *self.out.values()):
            roots = {self.root(label) for label in labels}
            if len(roots) == 1:
                kept |= roots
        return sorted({self.root(label) for label in range(len(self._parents))} - kept)

    def stays(self, labels, gone):
        return np.array([self.root(label) not in gone for label in labels])


def _value(slot, data):
    if data:
        return ir.Value(name=f"x{slot}")
    return ir.Node("", "Constant", [], num_outputs=1, name=f"c{slot}").outputs[0]


class Repaired(Cut):
    """The node of an :class:`Alone` after some components are gone."""

    def __init__(self, alone, gone):
        self.node, self.source = alone.node, alone.source
        self._alone, self._gone = alone, gone
        self.attributes = dict(alone.node.attributes)
        self.arrays = [None if a is None else self._taken(slot) for slot, a in enumerate(alone.arrays)]

    def _taken(self, slot):
        array = self._alone.arrays[slot]
        for axis in range(array.ndim):
            keep = self.keep(slot, axis)
            array = array if keep is None else array.compress(keep, axis)
        return array

    def _keep(self, labels):
        if labels is None:
            return None
        keep = self._alone.stays(labels, self._gone)
        return None if keep.all() else keep

    def keep(self, slot, axis):
        return self._keep(self._alone.labels(slot, axis))

    def keep_out(self, output, axis):
        return self._keep(self._alone.out.get((output, axis % max(1, len(self.out_shape(output))))))

    def shape(self, slot):
        return self._alone.shape(slot)

    def out_shape(self, output=0):
        return self._alone.out_shape(output)

    def cut_shape(self, slot):
        return self._taken(slot).shape

    def cut_out_shape(self, output=0):
        keeps = [self.keep_out(output, axis) for axis in range(len(self.out_shape(output)))]
        sizes = zip(self.out_shape(output), keeps, strict=True)
        return tuple(size if keep is None else int(keep.sum()) for size, keep in sizes)

    def is_dynamic(self, output, axis):
        return False

    def constant(self, slot):
        return self._alone.constant(slot)

    def set_input(self, slot, array):
        while len(self.arrays) <= slot:
            self.arrays.append(None)
        self.arrays[slot] = array

    def set_target_shape(self, slot, output=0):
        self.set_input(slot, np.array(self.cut_out_shape(output), np.int64))

    def set_attribute(self, name, value):
        if value is None:
            self.attributes.pop(name, None)
        else:
            self.attributes[name] = value

    def changed_node(self):
        return dataclasses.replace(self.node, attributes=self.attributes)

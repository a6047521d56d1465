"""Keys: which array of the data feeds which input, which holds labels, and which split it belongs to.

A key is taken apart into a split and a role: ``x_train``, ``train/image`` and ``test_labels`` read
(train, x), (train, image) and (test, labels). A role that is an input's name feeds that input;
``x``, ``data``, ``images`` and their like feed the only input; ``y``, ``labels``, ``targets`` are labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.adapters._base import Store
from onnxcompress.engine.data.columns import Column

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_LABELS = frozenset({"y", "label", "labels", "target", "targets", "class", "classes"})
_INPUTS = frozenset(
    {"", "x", "image", "images", "img", "imgs", "data", "input", "inputs", "feature", "features", "samples"}
)
_SEPARATOR = r"[_\-./ ]"


@dataclass
class Part:
    """One split: input name -> (key, column), and the labels' (key, column)."""

    inputs: dict[str, tuple[str, Column]] = field(default_factory=dict)
    labels: tuple[str, Column] | None = None


def split_and_role(key: str) -> tuple[str | None, str]:
    """Take a key apart; the split is None where the key names none.

    >>> split_and_role("x_train"), split_and_role("test/images"), split_and_role("image")
    (('train', 'x'), ('test', 'images'), (None, 'image'))
    """
    for word, split in SPLITS.items():
        if key.lower() == word:
            return split, ""
        before = re.fullmatch(rf"{word}{_SEPARATOR}(.+)", key, re.IGNORECASE)
        after = re.fullmatch(rf"(.+){_SEPARATOR}{word}", key, re.IGNORECASE)
        match = before or after
        if match:
            return split, match.group(1)
    return None, key


def match_keys(store: Store, inputs: Sequence[str], labels: str | None) -> tuple[dict[str, Part], list[str]]:
    """Return the splits that the data has, ``train`` among them, and sentences on what was assumed.

    Raises DataError where an input is not fed, or the labels asked for are not there.
    """
    parts: dict[str, Part] = {}
    spare: dict[str, list[str]] = {}
    notes: list[str] = []
    named = any(split_and_role(key)[0] == "train" for key in store.columns if key not in inputs)
    for key, column in store.columns.items():
        split, role, kind = _classify(key, inputs, labels)
        if named and split is None and kind != "input" and key != labels:
            kind = "spare"  # class names and the like beside x_train and y_train
        part = parts.setdefault(split or "train", Part())
        if kind == "input":
            _put(part.inputs, role, key, column, store.origin)
        elif kind == "label":
            if labels != "none":
                part.labels = _only(part.labels, key, column, store.origin)
        else:
            spare.setdefault(split or "train", []).append(key)
    for split, keys in spare.items():
        part = parts[split]
        if not part.inputs and len(inputs) == len(keys) == 1:
            part.inputs[inputs[0]] = (keys[0], store.columns[keys[0]])
            notes.append(f"'{keys[0]}' is taken as input '{inputs[0]}', the only one")
        else:
            notes.append(f"not used, as no input has that name: {', '.join(repr(k) for k in keys)}")
    found = {split: part for split, part in parts.items() if part.inputs}
    _check(found, store, inputs, labels)
    return found, notes


def _classify(key: str, inputs: Sequence[str], labels: str | None) -> tuple[str | None, str, str]:
    """Return (split, input name or role, "input" | "label" | "spare")."""
    if key in inputs:
        return None, key, "input"
    split, role = split_and_role(key)
    if key == labels:
        return split, role, "label"
    if role in inputs:
        return split, role, "input"
    if (labels and role in (labels, split_and_role(labels)[1])) or (
        labels in (None, "none") and role.lower() in _LABELS
    ):
        return split, role, "label"
    if len(inputs) == 1 and role.lower() in _INPUTS:
        return split, inputs[0], "input"
    return split, role, "spare"


def _put(target: dict[str, tuple[str, Column]], name: str, key: str, column: Column, origin: str) -> None:
    if name in target:
        raise DataError(
            f"two arrays could feed input '{name}'",
            where=origin,
            why=f"keys '{target[name][0]}' and '{key}'",
            fix="name one of them as the input",
        )
    target[name] = (key, column)


def _only(old: tuple[str, Column] | None, key: str, column: Column, origin: str) -> tuple[str, Column]:
    if old is not None:
        raise DataError(
            "two arrays could be the labels",
            where=origin,
            why=f"keys '{old[0]}' and '{key}'",
            fix="choose one with --labels",
        )
    return key, column


def _check(parts: Mapping[str, Part], store: Store, inputs: Sequence[str], labels: str | None) -> None:
    keys = ", ".join(repr(k) for k in store.columns) or "none"
    for split, part in parts.items() if parts else [("train", Part())]:
        missing = [name for name in inputs if name not in part.inputs]
        if missing:
            raise DataError(
                f"the data does not feed input{'s' if len(missing) > 1 else ''} "
                + ", ".join(repr(m) for m in missing),
                where=store.origin + ("" if split == "train" else f", {split} split"),
                why=f"keys found: {keys}",
                fix="name the arrays after the model's inputs",
            )
    if "train" not in parts:
        raise DataError(
            "the data has nothing to train on",
            where=store.origin,
            why=f"keys found: {keys}, no training split",
        )
    if labels not in (None, "none") and all(part.labels is None for part in parts.values()):
        raise DataError(f"the data has no labels '{labels}'", where=store.origin, why=f"keys found: {keys}")
    for split, part in parts.items():
        columns = [*part.inputs.values(), *([part.labels] if part.labels else [])]
        counts = {column.shape[0] for _, column in columns}
        if len(counts) > 1:
            lengths = ", ".join(f"'{key}' {column.shape[0]}" for key, column in columns)
            raise DataError("the arrays differ in their number of examples", where=store.origin, why=lengths)
        if counts == {0}:
            raise DataError(
                "the data is empty", where=store.origin, why=f"the {split} split holds no example"
            )

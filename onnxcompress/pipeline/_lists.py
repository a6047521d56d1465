"""Lists of layers to leave alone: are they of this model?"""

from __future__ import annotations

from onnxcompress.core.errors import UsageError
from onnxcompress.core.model import Model
from onnxcompress.engine.layers import layers, unmatched
from onnxcompress.recipe import Recipe

SHOWN = 3
"""Names told of at most."""


def check_lists(recipe: Recipe, model: Model) -> None:
    """Refuse a list with names that are none of the model's, before data is read.

    ``--exclude`` does so one by one. Only the first method meets this model; what later ones are given is
    looked at when they run.

    Raises:
        UsageError: names the file, how many of its names match nothing, and some of them.
    """
    found = layers(model) if any(recipe.lists[:1]) else ()
    for listed in recipe.lists[:1]:
        for file, names in listed.items():
            strangers = unmatched(found, names)
            if strangers:
                more = " …" if len(strangers) > SHOWN else ""
                match = "matches" if len(strangers) == 1 else "match"
                raise UsageError(
                    f"{len(strangers)} of the {len(names)} names in the list of layers {match} no "
                    "weight that can be compressed and no node that uses one",
                    where=file,
                    why=", ".join(map(repr, strangers[:SHOWN])) + more,
                    fix="take them out, or let `onnxcompress sensitivity` write a list for this model",
                )

"""Definitions of every number and word that a report shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """A term and what it means; ``unit`` is None where it has none."""

    term: str
    meaning: str
    unit: str | None = None


GLOSSARY: dict[str, Definition] = {
    "size": Definition(
        "File size",
        "Bytes of the .onnx file with its external data. Decimal units: 1 kB is 1,000 bytes, 1 MB 1,000,000.",
        "bytes",
    ),
    "gzip": Definition(
        "gzip size",
        "Bytes after gzip, the size that a download or a container layer has. A file whose weights are "
        "already packed hardly shrinks further.",
        "bytes",
    ),
    "parameters": Definition(
        "Parameters", "Elements of all floating-point tensors with a value that the model holds.", "count"
    ),
    "bits_per_weight": Definition(
        "Bits per weight",
        "Bits that the tensors of all weights take in the file (codes, codebooks, scales, and what stays "
        "uncompressed), divided by the number of weights. 32 for a float32 model.",
        "bits",
    ),
    "macs": Definition(
        "MACs",
        "Multiply-accumulate operations of one inference at the stated input shapes. Storing weights in a "
        "codebook does not change them.",
        "operations",
    ),
    "channel_group": Definition(
        "Channel group",
        "Channels that run through the network side by side: the same axes of the same tensors hold them, so "
        "that each can be cut alone, and cutting one takes its slice out of all of them. Residual sums, "
        "depthwise convolutions and normalisations tie the tensors of a group together. A group is named "
        "after the tensor that makes its channels.",
    ),
    "carried_parameters": Definition(
        "Parameters of a group",
        "Elements of weights that would go if all channels of the group went: those that make a channel and "
        "those that read it. A weight between two groups counts for both, so the numbers do not add up.",
        "count",
    ),
    "carried_macs": Definition(
        "MACs of a group",
        "Multiply-accumulates of one inference in which a channel of the group takes part, as what is "
        "computed or as what is read: what would go if all its channels went. Work between two groups counts "
        "for both, so the numbers do not add up.",
        "operations",
    ),
    "mixed": Definition(
        "Mixed",
        "A normalisation (LayerNormalization) looks at all channels of the group together. Cutting some "
        "changes what the others become: a real change of the outputs, beyond the loss of what was cut.",
    ),
    "kept_channels": Definition(
        "Kept", "Channels of the group that stay, of those it had in the original.", "count"
    ),
    "silenced": Definition(
        "Cut against silenced",
        "Proof that only what should go is gone: the cut network must compute what the whole one does with "
        "the same channels multiplied by zero wherever they are read. Compared before anything is written.",
    ),
    "float64_error": Definition(
        "Error in float64",
        "Largest difference between the cut and the silenced network over all places where cut channels "
        "were summed over and all outputs, computed in double precision, where a wrongly cut weight cannot "
        "hide behind rounding; divided by the largest value there.",
        "fraction",
    ),
    "ort_error": Definition(
        "Error in onnxruntime",
        "The same comparison of the outputs in onnxruntime: ‖cut − silenced‖₂ / ‖silenced‖₂.",
        "fraction",
    ),
    "nodes": Definition("Nodes", "Operators in the graph, nested graphs included.", "count"),
    "opset": Definition("Opset", "Version of the ONNX operator set that the model uses.", "version"),
    "load": Definition(
        "Load time",
        "Time from opening the file to a session ready to run, in a process of its own. Packed weights are "
        "decoded here, once.",
        "milliseconds",
    ),
    "resident": Definition(
        "Resident memory",
        "Growth of memory by loading the model and running it once, measured in a process of "
        "its own. Decoded weights take their full size here.",
        "bytes",
    ),
    "peak": Definition(
        "Peak memory", "Largest memory the same process held at any moment, load included.", "bytes"
    ),
    "relative_l2": Definition(
        "Relative error",
        "‖a − b‖₂ / ‖a‖₂ over all compared examples: the size of the difference, divided by the size of the "
        "reference. 0 is equal; 1 % is a difference one hundredth the size of the values themselves.",
        "fraction, as a percentage",
    ),
    "max_abs": Definition(
        "Largest difference",
        "The largest absolute difference of one number in the output, in the output's own unit.",
        "the output's unit",
    ),
    "cosine": Definition(
        "Cosine",
        "Cosine of the angle between the outputs, seen as vectors. 1: same direction.",
        "−1 to 1",
    ),
    "agreement": Definition(
        "Top-1 agreement",
        "Examples for which both models score the same class highest. Only for outputs that look like class "
        "scores, unless labels, loss or graph show that they are none; of outputs that are decisions (whole "
        "numbers, truth values) how many are equal. Rounded down, so 100 % means all.",
        "percentage of examples",
    ),
    "metric": Definition(
        "Accuracy metric",
        "The named metric on labelled examples that training has not seen, unless the split says otherwise.",
        "as named",
    ),
    "latency": Definition(
        "Latency",
        "Time of one inference in onnxruntime, median over rounds in which the models take turns, so that "
        "a busy machine disturbs them alike.",
        "milliseconds",
    ),
    "quantile": Definition(
        "p90, p99",
        "Nine of ten (99 of 100) measured calls were at least this fast.",
        "milliseconds",
    ),
    "ratio": Definition(
        "Latency ratio",
        "Latency divided by that of the first model, in pairs measured side by side. Below 1 is faster.",
        "factor",
    ),
    "interval": Definition(
        "95 % interval",
        "Bootstrap interval: with so much noise, the true ratio lies in it with 95 % confidence. Where it "
        "holds 1, or comes close to it, no difference was measured.",
        "factor",
    ),
    "encoding": Definition(
        "Stored as",
        "How the weight is kept in the file. A codebook stores a short code for each weight and a small "
        "table of the values the codes stand for.",
    ),
    "entries": Definition(
        "Entries",
        "Values in the weight's codebook. Two bits a code allow four entries; in a trellis a weight's own "
        "code and those just before it name the entry together, so that two bits a weight reach up to 256.",
        "count",
    ),
    "weight_bits": Definition(
        "Bits a weight", "Bits of this weight's tensors in the file, divided by its elements.", "bits"
    ),
    "weight_error": Definition(
        "Weight error",
        "‖w − ŵ‖₂ / ‖w‖₂: distance between the weight before and after, divided by its size before. After "
        "training a large value may be harmless, as the weight was allowed to move.",
        "fraction, as a percentage",
    ),
    "mu": Definition(
        "μ",
        "Penalty parameter of the LC algorithm. It grows from step to step and pulls the trained weights "
        "towards their compressed values.",
    ),
    "loss": Definition(
        "Loss", "What training minimises, on training batches, for the weights that are still free."
    ),
    "compressed_loss": Definition(
        "Loss, compressed", "The same loss of the compressed model, on validation examples."
    ),
    "compressed_metric": Definition(
        "Metric, compressed", "The named metric of the compressed model, on validation examples.", "as named"
    ),
    "gap": Definition(
        "Gap",
        "‖w − Δ(Θ)‖ / ‖w‖: distance between the free weights and their compressed form, divided by the size "
        "of the weights. Training has converged when it is near zero.",
        "fraction, as a percentage",
    ),
    "gate": Definition("Gate", "A limit set on the command line; the run fails where it does not hold."),
    "seed": Definition("Seed", "Start of every random choice: the same seed repeats the run."),
    "sha256": Definition("SHA-256", "Fingerprint of the file: equal only for equal files."),
}

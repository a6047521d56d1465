"""The JSON form of a run, described from the dataclasses it is written from."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any

from onnxcompress.core import run as runs

HEAD = f"""# JSON of a run

`--report out.json` writes one object, the `Run` of `onnxcompress/core/run.py`, schema `{runs.SCHEMA}`.
Reading another schema is refused; new optional fields may appear within one schema, so readers ignore
what they do not know. `null` means not measured or not applicable; a number that is not finite is written
as `null` too. Sizes are bytes, times are milliseconds (`_ms`) or seconds (`_s`), fractions go from 0 to 1.

This page is generated (`python -m onnxcompress.report.schema > docs/run_schema.md`); a test compares the two.
"""

MEANING = {
    "Run.duration_s": "of the whole run",
    "Run.environment": "machine and versions",
    "Run.comparisons": "outputs against the original and against torch",
    "Run.accuracy": "null: no labelled data",
    "Run.benchmark": "null: latency was not measured",
    "Run.gates": "limits the user set",
    "Refusal.where": "weight, node or group",
    "Refusal.why": "the reason, in words",
    "Environment.python": "version",
    "Environment.platform": "operating system",
    "Environment.cpu": "model name",
    "Environment.cores": "cores the process may use",
    "ModelFacts.name": "file name; unique within the run",
    "ModelFacts.sha256": "of the file",
    "ModelFacts.nodes": "operators, nested graphs included",
    "ModelFacts.bits_per_weight": "see above; null: no weights",
    "ModelFacts.macs": "null: shapes are not known",
    "ModelFacts.opset": "of the default operator set",
    "ModelFacts.ir_version": "of the file format",
    "MethodFacts.name": "as given to `--method`",
    "MethodFacts.options": "resolved options",
    "MethodFacts.source": "paper and equations",
    "MethodFacts.summary": "what it did, in one sentence",
    "MethodFacts.duration_s": "of this method",
    "MethodFacts.training": "null: nothing was trained",
    "Training.data": "where the examples come from",
    "Training.labelled": "false: the original model teaches",
    "Training.loss": "what was minimised",
    "Training.metric": "what chose the best state",
    "Training.train_examples": "examples gradients came from",
    "Training.validation_examples": "examples that chose the best state",
    "Training.device": "torch device",
    "Training.points": "the path, one entry a step of the outer loop",
    "TrainingPoint.step": "from 0",
    "TrainingPoint.mu": "penalty parameter μ",
    "TrainingPoint.loss": "of the free weights, on training batches",
    "TrainingPoint.compressed_loss": "of the compressed model, on validation examples",
    "TrainingPoint.compressed_metric": "of the compressed model, on validation examples",
    "TrainingPoint.gap": "‖w − Δ(Θ)‖ / ‖w‖",
    "TrainingPoint.elapsed_s": "since training began",
    "WeightFacts.name": "the initializer's name; with the path of its node inside a nested graph",
    "WeightFacts.shape": "static shape",
    "WeightFacts.dtype": "NumPy storage type",
    "WeightFacts.role": '`"contraction"`, `"recurrent"` or `"embedding"`',
    "WeightFacts.shape_after": "null: no channels were cut",
    "WeightFacts.rank": "null: not low-rank",
    "Run.cuts": "channels that were removed, one entry a method that cut",
    "Run.channels": "null: channels were not looked for",
    "MemberFacts.tensor": "weight, else the constant's name",
    "MemberFacts.axis": "from 0",
    "MemberFacts.positions": "a channel may own many (Flatten in front of a Gemm)",
    "MemberFacts.reads": "false: the slice makes the channel",
    "GroupFacts.name": "unique; that of a tensor that makes or reads its channels",
    "GroupFacts.size": "number of channels",
    "GroupFacts.members": "where its channels lie",
    "GroupFacts.parameters": "what would go with all its channels",
    "GroupFacts.macs": "what would go with all its channels",
    "GroupFacts.mixed": "a normalisation looks at them together",
    "GroupFacts.frozen": "reasons; empty: its channels can be cut",
    "GroupFacts.sliceable": "no layer makes them; they can only be left out in front of what reads them",
    "NodeFacts.name": "the node's, else its first output's",
    "NodeFacts.operator": "its type, with the domain where that is not ONNX's own",
    "NodeFacts.reads": "places in `nodes`, each below the node's own",
    "NodeFacts.groups": "places in `groups`, in order along the axis",
    "NodeFacts.layer": "it has a weight that it sums against or looks up",
    "NodeFacts.macs": "null: none, or not known",
    "ChannelFacts.groups": "in the order in which the graph makes them",
    "ChannelFacts.nodes": "in an order in which they can run",
    "ChannelFacts.free_parameters": "null: not known",
    "ChannelFacts.free_macs": "null: not known",
    "ChannelFacts.without_rule": "operator to number of nodes",
    "ChannelFacts.out_of_reach": "weights that no group can hold",
    "ChannelFacts.problem": "null: they were traced",
    "GroupCut.name": "the group's name, that of a tensor that makes or reads its channels",
    "GroupCut.kept": "channels that stay",
    "GroupCut.of": "channels before",
    "GroupCut.mixed": "a normalisation looks at them together",
    "CutProof.inputs": "inputs that were compared",
    "CutProof.sizes": "different input sizes among them",
    "CutProof.places": "values that were compared for each input",
    "CutProof.float64_error": "largest relative error in float64",
    "CutProof.float64_floor": "what rounding alone did in trials at the same place",
    "CutProof.ort_error": "largest relative ℓ2 difference of an output in onnxruntime",
    "CutProof.ort_tolerance": "what was allowed",
    "CutProof.single_precision": "operators that ran in float32",
    "CutProof.mixed_difference": "relative ℓ2; null: no normalisation was cut",
    "CutProof.silent_outputs": "zero or no numbers on every input",
    "CutProof.drowned_outputs": "rounding alone turns them into something else on some input",
    "CutFacts.method": "as given to `--method`",
    "CutFacts.groups": "one entry a group that was cut",
    "CutFacts.parameters_before": "elements of all weights",
    "CutFacts.parameters_after": "elements of all weights",
    "CutFacts.macs_before": "multiply-accumulates of one inference",
    "CutFacts.macs_after": "multiply-accumulates of one inference",
    "CutFacts.proof": "that cutting equals silencing",
    "CutFacts.folded": "sites whose constants went into a bias",
    "WeightFacts.macs": "multiply-accumulates of the nodes that use it; null: not known",
    "Histogram.edges": "ascending",
    "Histogram.counts": "values between consecutive edges",
    "Comparison.reference": '`"original"` or `"torch"`',
    "Comparison.random_inputs": "the inputs were random numbers",
    "Comparison.examples": "examples compared",
    "Comparison.outputs": "one entry an output",
    "Comparison.passed": "null: nothing was promised",
    "Comparison.candidate": "the compared file, where there are several",
    "OutputDifference.name": "the output's name",
    "OutputDifference.shape": "of one call",
    "OutputDifference.relative_l2": "null: the reference is zero, or no number",
    "OutputDifference.top1_agreement": "0 to 1; null: neither class scores nor decisions",
    "OutputDifference.equal": "equal to the bit",
    "OutputDifference.problem": "what is broken, in words; null: nothing",
    "OutputDifference.spread": "variation over examples as share of the reference's; null: not known",
    "OutputDifference.lost": "fraction of variance over examples unexplained, 1 - R2; null: not known",
    "Accuracy.metric": "its name",
    "Accuracy.higher_is_better": "direction of the metric",
    "Accuracy.before": "of the original",
    "Accuracy.after": "of the written file",
    "Accuracy.examples": "labelled examples used",
    "Accuracy.trivial": "of one answer to all examples; null: not known",
    "Latency.name": "the model's name",
    "Latency.median_ms": "over all samples",
    "Latency.p90_ms": "90 % quantile",
    "Latency.p99_ms": "99 % quantile",
    "Latency.min_ms": "smallest sample",
    "Latency.samples_ms": "per call, one entry a round",
    "LatencyRatio.name": "the model's name",
    "LatencyRatio.low": "lower end of the interval",
    "LatencyRatio.high": "upper end of the interval",
    "Benchmark.latencies": "one entry a model",
    "Benchmark.ratios": "one entry a model but the first",
    "Benchmark.threads": "of onnxruntime",
    "Benchmark.provider": "of onnxruntime",
    "Benchmark.rounds": "in each session",
    "Benchmark.sessions": "fresh sessions of each model",
    "Benchmark.margin": "an interval must stay out of 1 ± this fraction to be called a difference",
    "Benchmark.inputs": "where the inputs come from",
    "Gate.name": "the option's name, with underscores",
    "Gate.limit": "as given",
    "Gate.passed": "null: could not be decided",
    "Run.schema": "version of this format",
    "Run.version": "version of onnxcompress",
    "Run.kind": '`"compress"`, `"inspect"`, `"compare"`, `"bench"` or `"sensitivity"`',
    "Run.command": "the command line, one string an argument; null for a call from Python",
    "Run.recipe": "all settings, resolved; `--recipe` reads the same",
    "Run.seed": "seed of every random choice",
    "Run.started": "ISO 8601, with time zone",
    "Run.models": "original, then compressed; or the models named on the command line, in order",
    "Run.methods": "what ran, in order",
    "Run.weights": "the weights changed; for `inspect` all weights",
    "Run.refusals": "what was left alone, and why",
    "Run.warnings": "sentences a person must see",
    "ModelFacts.gzip_bytes": "bytes after gzip",
    "ModelFacts.size_bytes": "bytes on disk, external data included",
    "ModelFacts.input_shapes": "input name to the shape that MACs and latency were measured at",
    "ModelFacts.macs_unknown_ops": "operators that `macs` does not count",
    "ModelFacts.parameters": "elements of all floating-point tensors with a value",
    "WeightFacts.consumers": "nodes that read the weight",
    "WeightFacts.encoding": 'how it is stored: `"dense"`, `"codebook"` …',
    "WeightFacts.entries": "values in the codebook",
    "WeightFacts.bits_before": "bits in the original file",
    "WeightFacts.bits_after": "bits in the written file: codes, codebook, scales",
    "WeightFacts.relative_error": "‖w − ŵ‖₂ / ‖w‖₂",
    "WeightFacts.codebook": "the values it may take, for plots",
    "WeightFacts.histogram": "of the original values",
    "Training.epochs": "passes over the training examples, in total",
    "Training.stopped": "why training ended",
    "Training.random_data": "the examples were random numbers",
    "Training.without_gradient": "weights no gradient reaches",
    "Training.bottleneck": "null: no gates were trained",
    "Training.assumed_scores": "empty: the loss rests on no such guess",
    "Bottleneck.threshold": "of α, as the gates' own decision used it",
    "Bottleneck.log_alpha_edges": "ascending, natural logarithm",
    "Bottleneck.histograms": "one entry a gated group",
    "Bottleneck.path": "in the order of training",
    "Bottleneck.target": "share of a quantity that was to stay at most; null: γ alone decided",
    "Bottleneck.reached": "share of it that stays, of several the worst on its scale; null: no target",
    "Bottleneck.goals": "one entry a quantity of the target",
    "Bottleneck.by": "what ranked the channels",
    "GoalReached.quantity": '`"macs"`, `"params"`, `"elements"` or `"latency"`',
    "GoalReached.limit": "share of it that was to stay at most",
    "GoalReached.reached": "share that stays; null: not measured",
    "AlphaHistogram.group": "the group's name",
    "AlphaHistogram.size": "channels before",
    "AlphaHistogram.kept": "channels that stay",
    "AlphaHistogram.counts": "channels between consecutive edges",
    "PathPoint.epoch": "passes over the training examples so far",
    "PathPoint.gamma": "strength of the bottleneck",
    "PathPoint.kept": "group name to channels over the threshold",
    "PathPoint.information": "group name to nats that its gates let through; empty: not estimated",
    "Accuracy.split": '`"test"`, `"validation"`, or `"given"`: all that were given, where nothing is trained',
    "Latency.load_ms": "from the file to a session ready to run",
    "Latency.resident_bytes": "memory the loaded model takes",
    "Latency.peak_bytes": "largest memory of the process",
    "LatencyRatio.ratio": "below 1 is faster",
    "LatencyRatio.verdict": '`"faster"`, `"slower"` or `"no measurable difference"`',
    "Benchmark.clock": "what clock times were read from",
    "Gate.measured": "null: not measured",
    "Gate.low": "lower end of the interval of what was measured; null: no noise",
    "Gate.high": "upper end of the interval",
    "Gate.model": "the model it is for; null: the run as a whole",
    "Latency.flushed_ms": "median with denormal numbers flushed to zero; null: not measured",
    "Run.simplifications": "what went without loss; duplicates, joined last, have an entry of their own",
    "SimplificationFacts.method": "as given to `--method`",
    "SimplificationFacts.changes": "one entry a rule that found something",
    "SimplificationFacts.nodes_before": "nested graphs included",
    "SimplificationFacts.nodes_after": "nested graphs included",
    "SimplificationFacts.bytes_before": "of the model with its weights decoded",
    "SimplificationFacts.bytes_after": "of the model with its weights decoded",
    "SimplificationFacts.proof": "that outputs are what they were",
    "Change.rule": "its name",
    "Change.what": "what went, in words",
    "Change.count": "how many went",
    "Change.bytes": "by which the model became smaller; negative: it grew",
    "Change.exact": "outputs stay equal bit by bit; false: to rounding",
    "Change.where": "the first of them",
    "SameProof.inputs": "random inputs that were compared",
    "SameProof.sizes": "different input sizes among them",
    "SameProof.unrepeatable": "outputs that differ from run to run",
    "SameProof.bitwise": "null: no exact changes; false: half precision, rounded between nodes",
    "SameProof.float64_error": "null: nothing was rounded into weights",
    "SameProof.float64_floor": "what rounding alone did in trials at the same place; null: not known",
    "SameProof.ort_error": "relative to an output's largest value; null: nothing was rounded into weights",
    "SameProof.ort_tolerance": "what was allowed",
    "SameProof.single_precision": "operators that ran in float32",
    "SameProof.drowned_outputs": "rounding alone turns them into something else on some input",
    "Run.quantizations": "what computes with 8-bit integers now, one entry a method that quantised",
    "Run.sensitivity": "null: not a run of `sensitivity`",
    "Run.operators": "time of each operator; null: not recorded",
    "QuantizationFacts.calibration": "how ranges of activations were found",
    "QuantizationFacts.examples": "examples that ranges were found on",
    "QuantizationFacts.random_data": "they were random numbers",
    "QuantizationFacts.limit": "what the outputs had to hold, in words; null: nothing",
    "QuantizationFacts.ways": "ways to compute that were tried",
    "QuantizationFacts.layers": "every layer, in the order of the graph",
    "QuantizedLayer.node": "its name",
    "QuantizedLayer.op_type": "operator",
    "QuantizedLayer.weight": "the weight it contracts",
    "QuantizedLayer.way": "static, dynamic or float",
    "QuantizedLayer.why": "why it stays float; null: it does not",
    "QuantizedLayer.damage": "change of the outputs when it alone is quantised; null: not measured",
    "QuantizedWay.name": "static, mixed, dynamic, or float (nothing quantised)",
    "QuantizedWay.layers": "layers that compute with integers",
    "QuantizedWay.relative_l2": "change of the outputs on held-out examples",
    "QuantizedWay.ratio": "latency divided by that before; null: not measured",
    "QuantizedWay.low": "lower end of the interval",
    "QuantizedWay.high": "upper end of the interval",
    "QuantizedWay.verdict": "as of a latency ratio",
    "QuantizedWay.chosen": "this way was taken",
    "Sensitivity.method": "what each layer was compressed with",
    "Sensitivity.examples": "examples the damage was measured on",
    "Sensitivity.inputs": "where they come from",
    "Sensitivity.random_inputs": "they are random numbers",
    "Sensitivity.layers": "the most fragile first",
    "Sensitivity.together": "all layers compressed; null: not measured",
    "Sensitivity.threshold": "layers above it are fragile",
    "LayerDamage.name": "weight, node or group",
    "LayerDamage.relative_l2": "change of the outputs",
    "LayerDamage.low": "lower end of the interval",
    "LayerDamage.high": "upper end of the interval",
    "LayerDamage.changed": "what compressing it did, in words",
    "LayerDamage.fragile": "it is advised to leave it alone",
    "OperatorProfile.models": "names, in the order of the comparison",
    "OperatorProfile.runs": "inferences that were recorded",
    "OperatorProfile.totals_us": "microseconds of all nodes",
    "OperatorProfile.places": "the slowest first",
    "OperatorTime.place": "name of the node or value",
    "OperatorTime.operators": "what computes there; null: nothing",
    "OperatorTime.times_us": "microseconds an inference; null: nothing",
    "Environment.packages": "package to version",
    "Comparison.inputs": "where the inputs come from, in words",
    "Comparison.tolerance": "largest relative ℓ2 difference allowed; null: none was promised",
    "OutputDifference.cosine": "−1 to 1",
    "OutputDifference.max_abs": "in the output's own unit",
}
"""What each field holds; the page of a field that is missing here says nothing of it, and a test fails."""


def types_of_run() -> tuple[type, ...]:
    """Return the dataclasses that make up a run, ``Run`` first, each before those it holds."""
    found: dict[type, None] = {}

    def visit(kind: Any) -> None:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if kind not in found:
                found[kind] = None
                for hint in typing.get_type_hints(kind).values():
                    visit(hint)
        else:
            for argument in typing.get_args(kind):
                visit(argument)

    visit(runs.Run)
    return tuple(found)


def markdown() -> str:
    """Return the description of the JSON form as Markdown."""
    pieces = [HEAD]
    for kind in types_of_run():
        hints = typing.get_type_hints(kind)
        about = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
        rows = ["| field | type | meaning |", "| --- | --- | --- |"]
        for field in dataclasses.fields(kind):
            meaning = MEANING.get(f"{kind.__name__}.{field.name}", "")
            rows.append(f"| `{field.name}` | {_json_type(hints[field.name])} | {meaning} |")
        pieces.append("\n".join([f"## {kind.__name__}", "", about, "", *rows, ""]))
    return "\n".join(pieces)


def _json_type(hint: Any) -> str:
    """Return the JSON type of an annotation, in words; dataclasses as links."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_json_type(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(f'"{a}"' for a in arguments)
    if origin is tuple:
        return f"array of {_json_type(arguments[0])}"
    if origin is dict:
        return f"object of {_json_type(arguments[1])}"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return names.get(hint, "anything")


if __name__ == "__main__":
    print(markdown(), end="")

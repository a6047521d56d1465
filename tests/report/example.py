"""Runs to render: one complete, one of each kind, and those with every optional part missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxcompress.core.channel_facts import (
    ChannelFacts,
    CutFacts,
    CutProof,
    GroupCut,
    GroupFacts,
    MemberFacts,
    NodeFacts,
)
from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import (
    SCHEMA,
    Accuracy,
    Benchmark,
    Comparison,
    Environment,
    Gate,
    Histogram,
    Latency,
    LatencyRatio,
    MethodFacts,
    ModelFacts,
    OutputDifference,
    Run,
    Training,
    TrainingPoint,
    WeightFacts,
)

KINDS = ("compress", "inspect", "compare", "bench")
SHAPES = {"image": (1, 1, 28, 28)}


def model(name: str, size_bytes: int, bits: float) -> ModelFacts:
    return ModelFacts(
        name=name,
        sha256=(name.encode().hex() * 64)[:64],
        size_bytes=size_bytes,
        gzip_bytes=int(size_bytes * 0.93),
        nodes=9,
        parameters=266_610,
        bits_per_weight=bits,
        macs=266_200,
        macs_unknown_ops=("com.example.Mystery",),
        opset=17,
        ir_version=8,
        input_shapes=SHAPES,
    )


def weight(name: str, shape: tuple[int, ...], entries: int, seed: int) -> WeightFacts:
    values = np.random.default_rng(seed).normal(0, 0.05, 4000)
    counts, edges = np.histogram(values, 48)
    centres = np.quantile(values, (np.arange(entries) + 0.5) / entries)
    amount = int(np.prod(shape))
    return WeightFacts(
        name=name,
        shape=shape,
        dtype="float32",
        consumers=(f"Gemm_{seed}",),
        encoding="codebook",
        entries=entries,
        bits_before=32 * amount,
        bits_after=amount * max(1, int(np.log2(entries))) + 32 * entries,
        relative_error=0.31,
        codebook=tuple(float(c) for c in centres),
        role="contraction",
        macs=amount,
        histogram=Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts)),
    )


def training(points: int = 30) -> Training:
    path = tuple(
        TrainingPoint(
            step=i,
            mu=None if i == 0 else 1e-3 * 1.3**i,
            loss=0.002 + 0.01 / (1 + i) if i else None,
            compressed_loss=0.08 + 1.2 * 0.8**i,
            compressed_metric=0.979 - 0.2 * 0.7**i,
            gap=0.45 * 0.83**i,
            elapsed_s=7.3 * i,
        )
        for i in range(points)
    )
    return Training(
        data="mnist.npz",
        random_data=False,
        labelled=True,
        loss="ce",
        metric="top1",
        train_examples=54_000,
        validation_examples=6_000,
        epochs=60.0,
        device="cpu",
        stopped="all steps done",
        points=path,
        without_gradient=(
            Refusal("head.scale", "behind node 'Mystery_7' (com.example.Mystery), which has no gradient"),
        ),
    )


def benchmark(names: tuple[str, ...]) -> Benchmark:
    rng = np.random.default_rng(3)
    latencies = []
    for index, name in enumerate(names):
        samples = np.sort(0.021 * (1 + 0.01 * index) * rng.lognormal(0, 0.05, 480))
        rng.shuffle(samples)
        p50, p90, p99 = (float(q) for q in np.quantile(samples, (0.5, 0.9, 0.99)))
        times = tuple(float(s) for s in samples)
        latencies.append(
            Latency(name, p50, p90, p99, float(samples.min()), 2.1 + index, 3_400_000, 21_000_000, times)
        )
    ratios = tuple(LatencyRatio(n, 1.004, 0.982, 1.027, "no measurable difference") for n in names[1:])
    return Benchmark(
        tuple(latencies),
        ratios,
        1,
        "CPUExecutionProvider",
        "CPU time of the calling thread",
        60,
        8,
        "8 test examples",
    )


def compress() -> Run:
    """Everything present, as a good LC run has it."""
    names = ("lenet300.onnx", "lenet300.lc-quant.onnx")
    output = OutputDifference("logits", (10_000, 10), 3.2214, 0.0832, 0.99712, 0.99213, False)
    believed = OutputDifference("logits", (10_000, 10), 2.1e-6, 3.1e-7, 0.9999999999, 1.0, False)
    shapes = ((300, 784), (100, 300), (10, 100))
    return Run(
        schema=SCHEMA,
        version="0.1.0",
        kind="compress",
        command=(
            "onnxcompress",
            "lenet300.onnx",
            "--method",
            "lc-quant",
            "--bits",
            "2",
            "--data",
            "my data.npz",
        ),
        recipe={"methods": [{"name": "lc-quant", "bits": 2}], "seed": 0},
        seed=0,
        started="2026-11-21T04:40:40+00:00",
        duration_s=221.4,
        environment=Environment(
            "3.11.4",
            "Linux-6.1-x86_64",
            "Example CPU @ 2.10GHz",
            2,
            {"onnxruntime": "1.31.1", "torch": "2.13.0"},
        ),
        models=(model(names[0], 1_068_123, 32.0), model(names[1], 71_204, 2.13)),
        methods=(
            MethodFacts(
                name="lc-quant",
                options={
                    "bits": 2,
                    "codebook": "adaptive",
                    "layers": ["fc1.weight", "fc2.weight"],
                    "resume": False,
                    "mu0": None,
                },
                source="Carreira-Perpiñán & Idelbayev 2017, arXiv:1707.01209",
                summary="3 weights stored in learned codebooks of 4 values",
                duration_s=212.0,
                training=training(),
            ),
        ),
        weights=tuple(weight(f"fc{i + 1}.weight", s, 4, i) for i, s in enumerate(shapes)),
        refusals=(
            *(Refusal(f"fc{i}.bias", "one-dimensional: packing would not pay") for i in (1, 2, 3)),
            Refusal("head.scale", "read by If_12 in two branches"),
        ),
        warnings=("3 of 60,000 examples were left out: their labels are missing",),
        comparisons=(
            Comparison("original", "test split of my data.npz", False, 10_000, (output,), None, None),
            Comparison("torch", "test split of my data.npz", False, 256, (believed,), 1e-4, True),
        ),
        accuracy=Accuracy("top1", True, 0.9787, 0.9776, "test split", 10_000),
        benchmark=benchmark(names),
        gates=(
            Gate("max_size_ratio", 0.1, 0.06666, True),
            Gate("max_bytes", 100_000.0, 71_204.0, True),
            Gate("max_drop", 0.01, None, None),
        ),
    )


def channels() -> ChannelFacts:
    """A residual network with a LayerNormalization, an operator without a rule, and a frozen head."""

    def group(
        name: str, size: int, makes: tuple[str, ...], reads: tuple[str, ...], **more: object
    ) -> GroupFacts:
        members = (
            *(MemberFacts(t, 0, size, False) for t in makes),
            *(MemberFacts(t, 1, size, True) for t in reads),
        )
        return GroupFacts(name, size, members, 9 * size * size, 900 * size * size, **more)  # type: ignore[arg-type]

    head = "meets values that are no channels of a layer in Add 'Add_{}'"
    groups = (
        group("stem.weight", 64, ("stem.weight", "block.2.weight"), ("block.1.weight", "fc.weight")),
        group("block.1.weight", 128, ("block.1.weight", "block.1.bias"), ("block.2.weight",)),
        group("norm.weight", 32, ("norm.weight",), ("out.weight",), mixed=True),
        group("a.weight", 8, ("a.weight",), ("b.weight",), frozen=(head.format(1),)),
        group("b.weight", 8, ("b.weight",), ("c.weight",), frozen=(head.format(2), "reaches the output 'y'")),
        group("c.weight", 16, ("c.weight",), (), frozen=(head.format(7),)),
        group(
            "pixels", 3, (), ("stem.weight",), frozen=("reads 'image', which is no layer's",), sliceable=True
        ),
    )
    nodes = (
        NodeFacts("image", "input"),
        NodeFacts("/stem/Conv", "Conv", (0,), (0,), True, 1_000_000),
        NodeFacts("/stem/Relu", "Relu", (1,), (0,)),
        NodeFacts("/block/1/Conv", "Conv", (2,), (1,), True, 2_000_000),
        NodeFacts("/block/1/BatchNormalization", "BatchNormalization", (3,), (1,)),
        NodeFacts("/block/1/Sigmoid", "Sigmoid", (4,), (1,)),
        NodeFacts("/block/1/Mul", "Mul", (4, 5), (1,)),
        NodeFacts("/block/2/Conv", "Conv", (6,), (0,), True, 3_000_000),
        NodeFacts("/block/Add", "Add", (2, 7), (0,)),
        NodeFacts("/Concat", "Concat", (8, 6), (0, 1)),
        NodeFacts("/norm/Gemm", "Gemm", (9,), (2,), True, 4_000),
        NodeFacts("/norm/LayerNormalization", "LayerNormalization", (10,), (2,)),
        NodeFacts("/Mystery", "com.example.Mystery", (11,), (3,)),
        NodeFacts("/out/Gemm", "Gemm", (12,), (), True, 512),
        NodeFacts("logits", "output", (13,)),
    )
    return ChannelFacts(
        groups=groups,
        nodes=nodes,
        free_parameters=200_000,
        free_macs=250_000,
        without_rule={"ScatterND": 2, "com.example.Mystery": 1},
        out_of_reach=(Refusal("If_1.then_branch/W", "lies inside the body of an If, Loop or Scan"),),
    )


def pruned() -> Run:
    """Two methods that cut channels, one after the other, with everything a proof can tell."""
    run = compress()
    proof = CutProof(6, 2, 14, 3.1e-14, 2.2e-12, 4.4e-7, 1e-4, ("Einsum 'e'",), 0.031, ("mask",))
    first = CutFacts(
        "magnitude",
        (GroupCut("stem.weight", 48, 64), GroupCut("norm.weight", 24, 32, True)),
        266_610,
        190_000,
        266_200,
        180_000,
        proof,
        2,
    )
    plain = CutProof(4, 1, 9, 1.0e-15, 1.0e-12, 0.0, 1e-4)
    second = CutFacts("dead", (GroupCut("stem.weight", 32, 48),), 190_000, 150_000, 180_000, 120_000, plain)
    narrow = replace(
        run.weights[0],
        encoding="dense",
        entries=None,
        codebook=None,
        shape_after=(150, 784),
        relative_error=None,
    )
    method = replace(run.methods[0], name="magnitude", training=None)
    return replace(
        run,
        methods=(method, replace(method, name="dead")),
        weights=(narrow, *run.weights[1:]),
        cuts=(first, second),
        channels=channels(),
    )


def failing() -> Run:
    """Everything that must be marked loudly."""
    run = compress()
    broken = OutputDifference(
        "logits", (4, 10), None, None, None, None, False, "is NaN where the reference is a number"
    )
    fitted = replace(training(3), random_data=True, labelled=False, loss="l2", metric=None)
    ratios = (LatencyRatio("lenet300.lc-quant.onnx", 1.31, 1.22, 1.41, "slower"),)
    assert run.benchmark is not None
    return replace(
        run,
        models=(run.models[0], replace(run.models[1], size_bytes=1_200_000)),
        methods=(replace(run.methods[0], training=fitted),),
        comparisons=(
            Comparison("original", "seeded random inputs", True, 4, (broken,), None, False),
            Comparison("torch", "seeded random inputs", True, 4, (broken,), 1e-4, False),
        ),
        accuracy=None,
        benchmark=replace(run.benchmark, ratios=ratios),
        gates=(Gate("max_size_ratio", 0.1, 1.12, False),),
    )


def bare(kind: str) -> Run:
    """Only what no run lacks: every optional part missing."""
    run = compress()
    unknown = replace(run.models[0], bits_per_weight=None, macs=None, macs_unknown_ops=(), input_shapes={})
    models = (unknown, replace(unknown, name="b.onnx")) if kind in ("compress", "compare") else (unknown,)
    return Run(
        schema=SCHEMA,
        version="0.1.0",
        kind=kind,
        command=None,
        recipe={},
        seed=0,
        started="2026-11-21T04:40:40+00:00",
        duration_s=0.0,
        environment=Environment("3.11.4", "Linux", "", 1, {}),
        models=models,
    )


def sparse() -> Run:
    """Every part present, every optional field of it missing."""
    run = compress()
    point = TrainingPoint(0, None, None, None, None, None, 0.0)
    plain = WeightFacts("W", (3,), "float32", (), "codebook", None, 96, 32, None, None, None)
    latency = Latency("a", 1.0, 1.0, 1.0, 1.0, None, None, None, ())
    output = OutputDifference("y", (), None, None, None, None, True)
    return replace(
        bare("compress"),
        methods=(
            replace(
                run.methods[0],
                options={},
                summary="",
                training=replace(training(0), metric=None, points=(point,), without_gradient=()),
            ),
        ),
        weights=(plain,),
        comparisons=(Comparison("original", "", True, 1, (output,), None, None),),
        benchmark=Benchmark(
            (latency, replace(latency, name="b")), (), 1, "CPUExecutionProvider", "wall clock", 2, 3, ""
        ),
        gates=(Gate("min_cosine", 0.9, None, None),),
        cuts=(CutFacts("dead", (), 0, 0, 0, 0, CutProof(0, 0, 0, 0.0, 0.0, 0.0, 0.0)),),
        channels=ChannelFacts(),
    )


def inspect() -> Run:
    run = compress()
    dense = tuple(
        replace(
            w, encoding="dense", entries=None, codebook=None, bits_after=w.bits_before, relative_error=None
        )
        for w in run.weights
    )
    return replace(
        bare("inspect"),
        models=run.models[:1],
        weights=dense,
        refusals=run.refusals,
        channels=channels(),
    )


def untraced() -> Run:
    why = "channels could not be traced: onnxruntime says: no such operator"
    return replace(inspect(), channels=ChannelFacts(problem=why))


def compare() -> Run:
    run = compress()
    return replace(
        bare("compare"),
        models=run.models,
        comparisons=(replace(run.comparisons[0], random_inputs=True, candidate=run.models[1].name),),
        benchmark=run.benchmark,
    )


def compare_three() -> Run:
    run = compress()
    models = (*run.models, replace(run.models[1], name="other.onnx"))
    comparisons = tuple(replace(run.comparisons[0], candidate=m.name) for m in models[1:])
    return replace(
        bare("compare"),
        models=models,
        comparisons=comparisons,
        benchmark=benchmark(tuple(m.name for m in models)),
    )


def bench() -> Run:
    names = ("a.onnx", "b.onnx", "c.onnx")
    return replace(
        bare("bench"), models=tuple(model(n, 1000, 32.0) for n in names), benchmark=benchmark(names)
    )


def bench_one() -> Run:
    return replace(bare("bench"), models=(model("a.onnx", 1000, 32.0),), benchmark=benchmark(("a.onnx",)))


def large(weights: int = 1500) -> Run:
    """A model with very many weights with long names, and a refusal for each."""
    run = compress()
    base = run.weights[0]
    named = tuple(
        replace(base, name=f"model.decoder.layers.{i}.self_attention.projection.weight")
        for i in range(weights)
    )
    refused = tuple(
        Refusal(f"model.layers.{i}.bias", f"only {i} elements: packing would not pay") for i in range(weights)
    )
    return replace(run, weights=named, refusals=refused)


def hostile() -> Run:
    """Every name tries to break out of its format."""
    nasty = (
        "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|a`b``c|@everyone"
        " [x](javascript:alert(3))\x1b[2J\x1b]0;title\x07\r\n\u202e{{7*7}}"
    )
    run = compress()
    return replace(
        run,
        models=tuple(
            replace(m, name=nasty, macs_unknown_ops=(nasty,), input_shapes={nasty: (1,)}) for m in run.models
        ),
        methods=tuple(
            replace(
                m,
                name=nasty,
                options={nasty: nasty},
                source=nasty,
                summary=nasty,
                training=replace(
                    training(),
                    data=nasty,
                    metric=nasty,
                    loss=nasty,
                    without_gradient=(Refusal(nasty, nasty),),
                ),
            )
            for m in run.methods
        ),
        weights=tuple(
            replace(w, name=nasty + str(i), consumers=(nasty,), encoding=nasty)
            for i, w in enumerate(run.weights)
        ),
        refusals=(Refusal(nasty, nasty),),
        warnings=(nasty,),
        comparisons=tuple(
            replace(
                c,
                inputs=nasty,
                candidate=nasty,
                outputs=tuple(replace(o, name=nasty, problem=nasty) for o in c.outputs),
            )
            for c in run.comparisons
        ),
        accuracy=Accuracy(nasty, True, 0.5, 0.4, nasty, 10),
        benchmark=benchmark((nasty, nasty + "2")),
        command=("onnxcompress", nasty),
        recipe={nasty: nasty},
        environment=replace(run.environment, cpu=nasty, platform=nasty, packages={nasty: nasty}),
        gates=(Gate(nasty, 1.0, 2.0, False),),
        cuts=tuple(
            replace(
                c,
                method=nasty,
                groups=tuple(replace(g, name=nasty) for g in c.groups),
                proof=replace(c.proof, single_precision=(nasty,), silent_outputs=(nasty,)),
            )
            for c in pruned().cuts
        ),
        channels=ChannelFacts(
            groups=tuple(
                replace(
                    g,
                    name=nasty + str(i),
                    members=tuple(replace(m, tensor=nasty) for m in g.members),
                    frozen=tuple(nasty for _ in g.frozen),
                )
                for i, g in enumerate(channels().groups)
            ),
            nodes=tuple(replace(n, name=nasty) for n in channels().nodes),
            without_rule={nasty: 1},
            out_of_reach=(Refusal(nasty, nasty),),
        ),
    )


RUNS = {
    "compress": compress,
    "pruned": pruned,
    "failing": failing,
    "sparse": sparse,
    "inspect": inspect,
    "untraced": untraced,
    "compare": compare,
    "compare three": compare_three,
    "bench": bench,
    "bench one": bench_one,
    "large": large,
    "hostile": hostile,
    **{f"bare {kind}": (lambda kind=kind: bare(kind)) for kind in KINDS},
}

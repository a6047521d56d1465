from __future__ import annotations

import numpy as np
import pytest
from killing import assert_alike, whole_and_resumed
from test_lc_quant import QUICK, mlp, outputs, task_of

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.additive import Sum
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.methods.lc import Mixed
from onnxcompress.recipe import build


@pytest.fixture(autouse=True)
def small_nodes(monkeypatch):
    """Let weights as small as those of these models be worth it."""
    monkeypatch.setattr(Mixed, "node_bytes", 0)


def plan_of(*parts, model=None, task=None, **options):
    return Mixed(part=parts, **options).plan(model or mlp(), task, Resources())


def test_each_weight_gets_its_own():
    plan = plan_of("fc1*=prune(count=40)", "fc2*=codebook(entries=2)")
    assert {n: e.kind for n, e in plan.weights.items()} == {"fc1.w": "sparse", "fc2.w": "codebook"}
    assert np.count_nonzero(plan.weights["fc1.w"].decode()) == 40
    (expected,) = AdaptiveCodebook(2).project([mlp().array("fc2.w")])
    np.testing.assert_array_equal(plan.weights["fc2.w"].decode(), expected.decode())


def test_a_number_may_begin_with_its_point():
    short, long = (plan_of(f"fc1*=prune(keep={keep})").weights["fc1.w"].decode() for keep in (".1", "0.1"))
    np.testing.assert_array_equal(short, long)
    with pytest.raises(UsageError, match=r"must be a number: found '\.1\.2'"):
        plan_of("fc1*=prune(keep=.1.2)")


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        (("*=binary", "fc1*=prune(keep=0.1)"), {"fc1.w": "sparse", "fc2.w": "codebook"}),
        (("op:Gemm=binary", "fc1*=prune(keep=0.1)"), {"fc1.w": "sparse", "fc2.w": "codebook"}),
        (("*=binary", "op:Gemm=prune(keep=0.1)"), {"fc1.w": "sparse", "fc2.w": "sparse"}),
        (("fc*=binary", "fc1*=prune(keep=0.1)"), {"fc1.w": "codebook", "fc2.w": "codebook"}),
        (("fc2=prune(keep=0.1)", "fc*=binary"), {"fc1.w": "codebook", "fc2.w": "sparse"}),
    ],
)
def test_names_come_before_operators_and_those_before_everything_and_then_the_first(parts, kinds):
    assert {n: e.kind for n, e in plan_of(*parts).weights.items()} == kinds


def test_weights_that_no_part_names_stay_and_are_told():
    plan = plan_of("fc1*=binary")
    assert set(plan.weights) == {"fc1.w"}
    assert {r.where: r.why for r in plan.refusals}["fc2.w"] == "no part names it"


def test_excluded_weights_stay_though_a_part_names_them():
    plan = plan_of("*=binary", exclude=("fc2",))
    assert set(plan.weights) == {"fc1.w"}
    assert "excluded" in {r.where: r.why for r in plan.refusals}["fc2.w"]


def test_a_part_that_takes_nothing_is_told():
    plan = plan_of("fc1*=binary", "fc1*=prune(keep=0.1)", "*=binary")
    assert any("'fc1*=prune(keep=0.1)' takes no weight" in w for w in plan.warnings)


def test_joint_means_one_for_all():
    plan = plan_of("*=codebook(entries=2, joint=true)+prune(keep=0.1)")
    found = [plan.weights[n] for n in ("fc1.w", "fc2.w")]
    assert {e.kind for e in found} == {"additive"}
    values = np.unique(np.concatenate([e.parts[0].decode().ravel() for e in found]))
    assert len(values) == 2
    assert sum(np.count_nonzero(e.parts[1].decode()) for e in found) == int(0.1 * 768)
    arrays = [mlp().array(n) for n in ("fc1.w", "fc2.w")]
    for ours, theirs in zip(found, Sum((AdaptiveCodebook(2), Pruning(0.1))).project(arrays), strict=True):
        np.testing.assert_array_equal(ours.decode(), theirs.decode())


def test_channels_are_those_of_the_layer():
    plan = plan_of("fc2*=codebook(entries=2, granularity=channel)+prune(keep=0.05)")
    book = plan.weights["fc2.w"].parts[0]
    assert book.axis == 0
    assert max(len(np.unique(row)) for row in book.decode()) == 2


def test_ranks_given_and_learned():
    plan = plan_of("fc2*=low-rank(rank=2)", "fc1*=rank(keep=0.6)")
    assert plan.weights["fc2.w"].rank == 2
    assert np.linalg.matrix_rank(plan.weights["fc1.w"].decode()) * (64 + 8) <= 0.6 * 512
    refused = plan_of("fc2*=low-rank(rank=4)", "fc1*=binary")
    assert "rank 4 would not be smaller" in {r.where: r.why for r in refused.refusals}["fc2.w"]
    with pytest.raises(UnsupportedError, match="cannot be reached in the part"):
        plan_of("*=rank(keep=0.01, joint=true)")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "needs parts"),
        (("fc9*=binary",), r"--part 'fc9\*' matches no weight"),
        (("offset=binary",), "no contraction operand"),
        (("op:Conv=binary",), "matches no operator that uses a weight; there are Gemm"),
        (("*=l0-penalty(alpha=0.1)",), "a part with alpha needs --data"),
        (("*=codebook(entries=2)+l0-penalty(alpha=0.1)",), "a part with alpha needs --data"),
    ],
)
def test_parts_that_do_not_fit_the_model_are_refused(parts, words):
    with pytest.raises(UsageError, match=words):
        plan_of(*parts)


@pytest.mark.parametrize(("text", "word"), [("*=binary", "unusable"), ("*=codebook(bits=4)", "marginal"),
                                            ("*=codebook(bits=6)", None)])  # fmt: skip
def test_warning_without_training(text, word):
    warnings = " ".join(plan_of(text).warnings)
    assert (word in warnings) if word else not warnings


MIXES = {
    "mixed": ("fc1*=prune(keep=0.2)", "fc2*=codebook(entries=2)"),
    "sum": ("*=codebook(entries=2, joint=true)+prune(keep=0.05)",),
    "penalty": ("fc1*=l0-penalty(alpha=0.002)", "fc2*=codebook(entries=2)+l0-penalty(alpha=0.002)"),
    "factors": ("fc1*=low-rank(rank=5)+prune(keep=0.05)", "fc2*=low-rank(rank=2)"),
}


@pytest.mark.parametrize("mix", ["mixed", "sum", "factors"])
def test_training_beats_direct_compression(mix):
    model = mlp()
    task = task_of(model, True)
    direct = plan_of(*MIXES[mix], model=model, task=task, mode="dc")
    plan = plan_of(*MIXES[mix], model=model, task=task, steps=10, epochs=3, batch_size=32, lr=0.1)
    x = np.random.default_rng(11).normal(size=(2000, 8)).astype(np.float32)
    wanted = outputs(model, x).argmax(1)
    wrong = [
        (outputs(model.with_encodings({**p.values, **p.weights}, "q"), x).argmax(1) != wanted).mean()
        for p in (plan, direct)
    ]
    assert wrong[0] < 0.85 * wrong[1]
    assert {n: e.kind for n, e in plan.weights.items()} == {n: e.kind for n, e in direct.weights.items()}


@pytest.mark.parametrize("mix", MIXES)
def test_killed_run_is_taken_up_and_ends_alike(tmp_path, monkeypatch, mix):
    model = mlp()
    method = Mixed(part=MIXES[mix], **QUICK)
    assert_alike(*whole_and_resumed(method, model, task_of(model, True), tmp_path, monkeypatch))


RECIPE = """
[[method]]
name = "lc"
steps = 3

[[method.part]]
weights = "fc1*"
compression = "prune"
count = 5000

[[method.part]]
weights = ["fc2*", "fc3*"]
compression = "codebook"
entries = 2
joint = true
plus = [{compression = "prune", keep = 0.01}]
"""


def test_recipe_file_with_parts(tmp_path):
    (tmp_path / "mix.toml").write_text(RECIPE)
    recipe = build([], {}, file=tmp_path / "mix.toml")
    texts = ("fc1*=prune(count=5000)", "fc2*|fc3*=codebook(entries=2, joint=true)+prune(keep=0.01)")
    assert recipe.methods == (Mixed(part=texts, steps=3),)
    recipe.save(tmp_path / "again.toml")
    assert build([], {}, file=tmp_path / "again.toml") == recipe
    flags = build([], {"part": ("*=binary",)}, file=tmp_path / "mix.toml")
    assert flags.methods == (Mixed(part=("*=binary",), steps=3),)


@pytest.mark.parametrize(
    ("part", "words"),
    [("part = 3", "--part must be a list"), ("part = [3]", "--part must be a list"),
     ('part = "fc1=prun"', "no compression 'prun'")],
)  # fmt: skip
def test_recipe_file_with_parts_that_are_none(tmp_path, part, words):
    (tmp_path / "mix.toml").write_text(f'[[method]]\nname = "lc"\n{part}\n')
    with pytest.raises(UsageError, match=words):
        build([], {}, file=tmp_path / "mix.toml")

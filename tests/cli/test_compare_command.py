"""``onnxcompress compare``: what the report that goes to a pull request holds."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxcompress.pipeline._compared import COMPARED_EXAMPLES
from onnxcompress.pipeline._data import read, untrained_task
from onnxcompress.pipeline._original import open_original

QUICK = "--budget 0.5 --report r.json --report r.html --report r.md"


def small(call):
    assert call("digits_mlp.onnx -o small.onnx --method lc-quant --bits 4 --no-bench -q").code == 0


def test_real_data_is_what_latency_is_measured_on(folder, call):
    small(call)
    done = call(f"compare digits_mlp.onnx small.onnx --data digits.npz {QUICK}")
    assert done.code == 0, done.err
    run = json.loads((folder / "r.json").read_text())
    assert run["benchmark"]["inputs"] == "one validation example"
    assert all(entry["flushed_ms"] is None for entry in run["benchmark"]["latencies"])
    assert not run["comparisons"][0]["random_inputs"]


def test_random_inputs_bring_a_look_at_denormals(folder, call):
    small(call)
    assert call(f"compare digits_mlp.onnx small.onnx {QUICK}").code == 0
    run = json.loads((folder / "r.json").read_text())
    assert run["benchmark"]["inputs"] == "one seeded random input"
    assert all(entry["flushed_ms"] > 0 for entry in run["benchmark"]["latencies"])


def test_all_that_was_promised_is_there(folder, call):
    small(call)
    done = call(f"compare digits_mlp.onnx small.onnx digits_mlp.onnx {QUICK}")
    assert done.code == 0, done.err
    run = json.loads((folder / "r.json").read_text())
    for entry in run["benchmark"]["latencies"]:
        for field in ("median_ms", "p90_ms", "p99_ms", "load_ms", "resident_bytes", "peak_bytes"):
            assert entry[field] is not None
    assert len(run["benchmark"]["ratios"]) == 2
    for model in run["models"]:
        assert model["size_bytes"] > model["gzip_bytes"] > 0
        assert model["macs"] == 64 * 256 + 256 * 128 + 128 * 10
    places = {p["place"]: p for p in run["operators"]["places"]}
    assert all(len(p["times_us"]) == 3 for p in places.values())
    gemms = [p for p in places.values() if all(o in ("Gemm", "FusedGemm") for o in p["operators"])]
    assert len(gemms) == 3, "each layer is one place in all models"
    for name in ("r.md", "r.html"):
        assert "Time of one inference by kind of operator" in (folder / name).read_text()
    assert (folder / "r.html").stat().st_size < 1_000_000


def test_accuracy_of_two_models_on_labelled_data(folder, call):
    small(call)
    words = "compare digits_mlp.onnx small.onnx --data digits.npz --no-bench --report r.json"
    assert call(f"{words} --max-drop 0.5").code == 0
    found = json.loads((folder / "r.json").read_text())["accuracy"]
    with np.load("digits.npz") as data:
        x, labels = data["x_test"], data["y_test"]
    for name, told in (("digits_mlp.onnx", found["before"]), ("small.onnx", found["after"])):
        session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"image": x})
        assert told == (scores.argmax(1) == labels).mean()
    assert (found["split"], found["examples"]) == ("test", len(labels))
    done = call(f"{words} --max-drop -1")
    assert done.code == 3
    assert "max_drop" in done.err
    three = call("compare digits_mlp.onnx small.onnx small.onnx --data digits.npz --no-bench --max-drop 0.5")
    assert three.code == 2
    assert "of two that are compared" in three.err


def labelled(folder, name="labelled.npz", **splits):
    """Write 400 labelled digits, sorted by class, under the keys of one split or of several."""
    with np.load(folder / "digits.npz") as data:
        x, labels = data["x_train"][:400], data["y_train"][:400]
    order = np.argsort(labels, kind="stable")
    x, labels = x[order], labels[order]
    keys = {}
    for suffix, rows in (splits or {"": slice(None)}).items():
        keys |= {f"x{suffix}": x[rows], f"y{suffix}": labels[rows]}
    np.savez(folder / name, **keys)
    return x, labels


def right(name, x, labels):
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": x})
    return (scores.argmax(1) == labels).mean()


def test_where_nothing_is_trained_all_examples_are_judged_by(folder, call):
    """``compress`` trains on the rest and goes on holding a tenth out; ``compare`` trains nothing."""
    small(call)
    x, labels = labelled(folder)
    words = "compare digits_mlp.onnx small.onnx --data labelled.npz --no-bench --report r.json --report r.md"
    assert call(words).code == 0
    run = json.loads((folder / "r.json").read_text())
    found = run["accuracy"]
    assert (found["split"], found["examples"]) == ("given", 400)
    assert found["before"] == right("digits_mlp.onnx", x, labels)
    assert found["after"] == right("small.onnx", x, labels)
    assert "400 examples: all given." in (folder / "r.md").read_text()
    assert run["comparisons"][0]["inputs"] == "256 given examples"
    done = call(
        "digits_mlp.onnx --method lc-quant --bits 4 --mode dc --data labelled.npz --no-bench -q "
        "--dry-run --report c.json"
    )
    assert done.code == 0, done.err
    held_out = json.loads((folder / "c.json").read_text())["accuracy"]
    assert (held_out["split"], held_out["examples"]) == ("validation", 40)


def test_beside_the_baseline_of_a_compression_the_same_examples_are_held_out(folder, call):
    """Else files that have not changed would be worse, or better, than their own baseline."""
    labelled(folder)
    words = "--data labelled.npz --no-bench -q"
    done = call(
        f"digits_mlp.onnx small.onnx --method lc-quant --bits 2 --mode dc {words} --report compress.json"
    )
    assert done.code == 0, done.err
    compared = f"compare digits_mlp.onnx small.onnx {words} --max-regression 0"
    assert call(f"{compared} --baseline compress.json --report again.json").code == 0
    stored, again = (json.loads((folder / f"{n}.json").read_text()) for n in ("compress", "again"))
    for key in ("split", "examples", "before", "after"):
        assert again["accuracy"][key] == stored["accuracy"][key]
    # A baseline that is itself a comparison on all examples is met on all of them.
    assert call(f"compare digits_mlp.onnx small.onnx {words} --report all.json").code == 0
    assert call(f"{compared} --baseline all.json --report again.json").code == 0
    assert json.loads((folder / "again.json").read_text())["accuracy"]["split"] == "given"


@pytest.mark.parametrize(
    ("splits", "options", "measured"),
    [
        ({}, "--limit 100", ("given", 100)),
        ({}, "--val 0.1", ("validation", 40)),
        ({"_train": slice(0, 300), "_val": slice(300, 400)}, "", ("validation", 100)),
        ({"_train": slice(0, 350), "_test": slice(350, 400)}, "--limit 100", ("test", 50)),
    ],
)
def test_what_is_set_apart_is_what_is_judged_by(folder, call, splits, options, measured):
    labelled(folder, **splits)
    done = call(
        f"compare digits_mlp.onnx digits_mlp.onnx --data labelled.npz --no-bench -q {options} --report r.json"
    )
    assert done.code == 0, done.err
    found = json.loads((folder / "r.json").read_text())
    assert (found["accuracy"]["split"], found["accuracy"]["examples"]) == measured
    assert found["comparisons"][0]["examples"] == min(measured[1], 256)


def test_outputs_are_compared_on_examples_drawn_from_all(folder):
    """Sorted by class, the first 256 of 400 would lack the last classes."""
    _, labels = labelled(folder)
    original = open_original(folder / "digits_mlp.onnx", 1)
    task = untrained_task(original, read(original, {"path": folder / "labelled.npz"}), 0)
    assert np.array_equal(np.sort(task.validation), np.arange(400))
    drawn = labels[task.validation[:COMPARED_EXAMPLES]]
    assert set(drawn) == set(labels) > set(labels[:COMPARED_EXAMPLES])
    assert not len(task.train)


def test_a_provider_that_is_not_there_is_told(folder, call):
    done = call("compare digits_mlp.onnx digits_mlp.onnx --provider Imagined")
    assert done.code == 2
    assert "there is no provider 'Imagined' here; choose one of" in done.err
    assert call("bench digits_mlp.onnx --provider cpu --budget 0.2 -q").code == 0


def test_weights_that_callers_may_replace_are_told(folder, call):
    import onnx

    proto = onnx.load(folder / "digits_mlp.onnx")
    for tensor in proto.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(value)
    onnx.save(proto, folder / "open.onnx")
    done = call("compare digits_mlp.onnx open.onnx --no-bench -q --report r.json")
    assert done.code == 0, done.err
    (warning,) = [w for w in json.loads((folder / "r.json").read_text())["warnings"] if "as inputs" in w]
    assert warning.startswith("open.onnx lists 6 weights as inputs")


def test_shapes_of_inputs_count_for_every_model(folder, call):
    """What is compared, counted and timed has the shapes asked for; a model they do not fit is named."""
    small(call)
    words = "--no-bench -q --input-shape image:5,1,8,8 --report r.json"
    assert call(f"compare digits_mlp.onnx small.onnx {words}").code == 0
    run = json.loads((folder / "r.json").read_text())
    assert [m["input_shapes"]["image"] for m in run["models"]] == [[5, 1, 8, 8]] * 2
    assert run["comparisons"][0]["outputs"][0]["shape"][0] == 5
    plain = call("compare digits_mlp.onnx small.onnx --no-bench -q --report r.json")
    assert plain.code == 0
    single = json.loads((folder / "r.json").read_text())
    assert run["models"][0]["macs"] == 5 * single["models"][0]["macs"]
    fixed = onnx.load(folder / "small.onnx")
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, folder / "fixed.onnx")
    done = call(f"compare digits_mlp.onnx fixed.onnx {words}")
    assert done.code == 2
    assert "fixed.onnx" in done.err


def changed(folder, name, change):
    """Write the small network with other inputs."""
    proto = onnx.load(folder / "digits_mlp.onnx")
    change(proto.graph)
    onnx.save(proto, folder / name)


def renamed(graph):
    for node in graph.node:
        node.input[:] = ["picture" if each == "image" else each for each in node.input]
    graph.input[0].name = "picture"


def halved(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    cast = onnx.helper.make_node("Cast", ["image"], ["image32"], to=onnx.TensorProto.FLOAT)
    for node in graph.node:
        node.input[:] = ["image32" if each == "image" else each for each in node.input]
    graph.node.insert(0, cast)


def resized(graph):
    sizes = graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_value, sizes[3].dim_value = 4, 16


@pytest.mark.parametrize("command", ["compare {} --no-bench", "bench {} --budget 0.2"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed, "it asks for 'picture' where digits_mlp.onnx has 'image';"),
        (halved, "'image' is float16 and not float32"),
        (resized, r"'image' has shape \w+ × 1 × 4 × 16 and not \w+ × 1 × 8 × 8"),
    ],
)
def test_other_inputs_than_the_firsts_are_refused_alike(folder, call, command, change, says):
    changed(folder, "other.onnx", change)
    done = call(command.format("digits_mlp.onnx other.onnx -q"))
    assert done.code == 2
    assert re.search(says, done.err), done.err
    assert "the inputs of other.onnx are not those of digits_mlp.onnx:" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["compare {} --no-bench", "bench {} --budget 0.2"])
def test_inputs_that_only_one_of_them_fixes_are_no_others(folder, call, command):
    def fixed(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    changed(folder, "other.onnx", fixed)
    assert call(command.format("digits_mlp.onnx other.onnx -q")).code == 0

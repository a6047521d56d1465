"""Structured pruning side by side: onnxcompress, Torch-Pruning and onnxsim, on the networks of the zoo.

Each network is exported by both of torch's exporters. onnxcompress and onnxsim prune that file; Torch-Pruning
prunes the torch module, which is exported afterwards. All results are counted alike, from the files:
floating-point parameters and multiply-accumulates, each against the file of the whole network; and
onnxruntime opens and runs each of them.

The peers are no dependencies of the project. They run in an environment of their own::

    python -m venv peers && peers/bin/pip install torch torchvision onnxscript onnxruntime onnx-ir \\
        torch-pruning==1.6.1 onnxsim==0.8.1
    python benchmarks/pruning_peers.py --peers-python peers/bin/python

Without ``--peers-python`` their columns say that they are missing. Networks named on the command line replace
their rows in ``results/pruning_peers.json``; the table is written from all rows that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
KEEP = 0.5
TIMEOUT_S = 300
OPSETS = {"torchscript": 17, "dynamo": 18}
EXTRA = ("unet", "yolo", "super_resolution", "excite", "lstm_tagger", "gru_tagger")
"""Small networks whose channels are hard to follow, besides the large ones."""

PEERS = {"torch_pruning": "Torch-Pruning", "onnxsim": "onnxsim"}
OURS = {"ours": "onnxcompress, any width", "ours_16": "onnxcompress, multiples of 16"}


def main() -> int:
    import zoo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", help="of the zoo; default: all")
    parser.add_argument("--peers-python", type=Path, help="interpreter that has the peers")
    parser.add_argument("--exporter", choices=zoo.EXPORTERS, action="append", help="default: both")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the numbers")
    options = parser.parse_args()
    if options.peers_python is None:
        print("no --peers-python: the peers are missing from this run", file=sys.stderr)
    target = options.out / "pruning_peers.json"
    rows = (
        {(r["network"], r["exporter"]): r for r in json.loads(target.read_text())} if target.exists() else {}
    )
    for network in options.networks or [*zoo.LARGE, *EXTRA]:
        torch_pruning: dict[str, Any] | None = None
        for exporter in options.exporter or zoo.EXPORTERS:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(network, exporter, Path(folder), options.peers_python, torch_pruning)
            torch_pruning = row["torch_pruning"]
            rows[network, exporter] = row
            print(line(row), flush=True)
            options.out.mkdir(parents=True, exist_ok=True)
            order = sorted(rows.values(), key=lambda r: [*zoo.LARGE, *EXTRA].index(r["network"]))
            target.write_text(json.dumps(order, indent=1) + "\n")
            (options.out / "pruning_peers.md").write_text(table(order))
    return 0


def measure(
    network: str, exporter: str, folder: Path, peers: Path | None, torch_pruning: dict[str, Any] | None
) -> dict[str, Any]:
    """Return all numbers of one network; Torch-Pruning sees no file and runs once a network."""
    import onnx
    import zoo

    source = folder / "network.onnx"
    net, inputs = zoo.build(network)
    onnx.save(zoo.export(net, inputs, exporter, opset=OPSETS[exporter]), source)
    del net
    whole = count(source)
    row: dict[str, Any] = {"network": network, "exporter": exporter, "whole": whole}
    row["ours"], row["ours_16"] = ours(source, folder, whole)
    if torch_pruning is None:
        torch_pruning = peer(
            peers, "_peer_torch_pruning.py", network, exporter, folder / "tp.onnx", whole=whole
        )
    row["torch_pruning"] = torch_pruning
    row["onnxsim"] = peer(peers, "_peer_onnxsim.py", str(source), folder / "sim.onnx", whole=whole)
    return row


def ours(source: Path, folder: Path, whole: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what ``--method magnitude`` does with widths of any size, and with multiples of 16.

    The first is carried out, proven and written; the second is foretold by the same analysis.
    """
    from onnxcompress import exporter, importer, surgery
    from onnxcompress.core.errors import OnnxCompressError
    from onnxcompress.core.resources import Resources
    from onnxcompress.engine import feeds, runtime
    from onnxcompress.engine.channels import analyse
    from onnxcompress.methods._base import METHODS

    out = folder / "ours.onnx"
    try:
        model = importer.load(source)
        shapes = feeds.resolve_shapes(model, runtime.open_session(source), {})
        began = time.perf_counter()
        channels = analyse(model, shapes)
        plans = [
            METHODS["magnitude"](keep=KEEP, round_to=width).plan(model, None, Resources(input_shapes=shapes))
            for width in (1, 16)
        ]
        cut = surgery.cut(channels, plans[0].keep)
        cut_seconds = time.perf_counter() - began
        proof = surgery.prove(channels, plans[0].keep, cut)
        exporter.export(cut.model, out)
    except OnnxCompressError as error:
        failed = {"error": str(error).splitlines()[0]}
        return failed, failed
    found = {
        **removed(out, whole),
        "seconds": cut_seconds,
        "proof_seconds": time.perf_counter() - began - cut_seconds,
        "float64_error": proof.float64_error,
        "float64_floor": proof.float64_floor,
        "ort_error": proof.ort_error,
        "places": proof.places,
        "mixed_groups": sum(channels.group(name).mixed for name in plans[0].keep),
        "frozen": [[g.name, g.size, list(g.frozen)] for g in channels.groups if not g.free],
    }
    keep = plans[1].keep
    fewer = {
        "parameters_removed": (channels.parameters({}) - channels.parameters(keep)) / whole["parameters"],
        "macs_removed": 1 - channels.macs(keep) / channels.macs({}),
    }
    return found, fewer


def peer(peers: Path | None, script: str, *arguments: object, whole: dict[str, Any]) -> dict[str, Any]:
    """Run a peer's script in its own environment; its seconds are those of pruning alone."""
    if peers is None:
        return {"error": "not installed"}
    paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(peers), str(HERE / script), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {TIMEOUT_S} s"}
    lines = [text for text in done.stdout.splitlines() if text.startswith("{")]
    if not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    report = json.loads(lines[-1])
    return report | removed(Path(str(arguments[-1])), whole) if report.get("written") else report


def count(path: Path) -> dict[str, Any]:
    """Return parameters, multiply-accumulates and whether onnxruntime runs the file."""
    from onnxcompress import importer
    from onnxcompress.core.errors import OnnxCompressError
    from onnxcompress.engine import feeds, runtime
    from onnxcompress.engine.measures.costs import count_macs

    try:
        model = importer.load(path)
        session = runtime.open_session(path)
        shapes = feeds.resolve_shapes(model, session, {})
        session.run(feeds.random_feeds(session.inputs, seed=0, shapes=shapes, examples=1, model=model)[0])
    except OnnxCompressError as error:
        return {"runs": False, "error": str(error).splitlines()[0]}
    # A single number is no parameter: exporters write scales, exponents and epsilons as constants, or do not.
    parameters = sum(weight.size for weight in model.weights.values() if weight.size > 1)
    return {"runs": True, "parameters": parameters, "macs": count_macs(model, shapes).total}


def removed(path: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """Return what is left in a file, and the share of the whole network that is gone."""
    found = count(path)
    if found["runs"]:
        found["parameters_removed"] = 1 - found["parameters"] / whole["parameters"]
        found["macs_removed"] = 1 - found["macs"] / whole["macs"]
    return found


def line(row: dict[str, Any]) -> str:
    cells = [f"{row['network']:20s} {row['exporter']:12s}"]
    for key in (*OURS, *PEERS):
        found = row[key]
        if "parameters_removed" in found:
            told = f"{found['parameters_removed']:.4f} {found['macs_removed']:.4f}"
            told += f" {found['seconds']:.1f} s" if "seconds" in found else ""
        else:
            told = found.get("error", "does not run")[:60]
        cells.append(f"{key} {told}")
    return " | ".join(cells)


def table(rows: list[dict[str, Any]]) -> str:
    versions = ", ".join(
        f"{name} {next((r[key]['version'] for r in rows if 'version' in r[key]), '(missing)')}"
        for key, name in PEERS.items()
    )
    head = (
        "Structured pruning, half of the channels kept in every layer, random weights. Share of the whole "
        f"network that is gone:\nparameters / multiply-accumulates. Peers: {versions}.\n\n"
        "Seconds: analysing, deciding and cutting; in brackets what the proof and the checked export take "
        "besides. Torch-Pruning is given the torch module, the others the "
        "file. Silenced = cut: largest relative\ndifference in float64 over all places where channels are "
        "summed over / relative ℓ2 of the outputs in onnxruntime.\n\n"
    )
    names = [
        "network",
        "exporter",
        "parameters",
        *OURS.values(),
        "silenced = cut",
        *PEERS.values(),
        "seconds",
    ]
    text = head + f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"
    for row in rows:
        shares = {key: share(row[key]) for key in (*OURS, *PEERS)}
        proof = row["ours"]
        proven = (
            f"{proof['float64_error']:.0e} / {proof['ort_error']:.0e}" if "float64_error" in proof else "–"
        )
        times = [seconds(row[key]) for key in ("ours", *PEERS)]
        cells = [row["network"], row["exporter"], f"{row['whole']['parameters'] / 1e6:.2f} M"]
        cells += [*(shares[k] for k in OURS), proven, *(shares[k] for k in PEERS), " · ".join(times)]
        text += "| " + " | ".join(cells) + " |\n"
    return text + "\n" + verdict(rows)


def share(found: dict[str, Any]) -> str:
    if "parameters_removed" in found:
        return f"{100 * found['parameters_removed']:.1f} / {100 * found['macs_removed']:.1f} %"
    error = found.get("error", "").replace("|", "/")
    return f"onnxruntime refuses it: {error}" if found.get("written") else f"fails: {error}"


def seconds(found: dict[str, Any]) -> str:
    if "seconds" not in found:
        return "–"
    proof = f" (+ {found['proof_seconds']:.1f})" if "proof_seconds" in found else ""
    return f"{found['seconds']:.1f}{proof}"


def verdict(rows: list[dict[str, Any]]) -> str:
    """Say how often the peers remove more parameters, or nothing that runs."""
    text = ""
    for key, name in PEERS.items():
        known = [r for r in rows if "parameters_removed" in r[key] and "parameters_removed" in r["ours"]]
        more = [r for r in known if r["ours"]["parameters_removed"] > r[key]["parameters_removed"]]
        same = [
            r for r in known if abs(r["ours"]["parameters_removed"] - r[key]["parameters_removed"]) < 5e-3
        ]
        text += (
            f"* {name}: gives a model that runs for {len(known)} of {len(rows)} files; onnxcompress removes "
            f"more parameters for {len(more)} of these ({len(same)} within half a point).\n"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())

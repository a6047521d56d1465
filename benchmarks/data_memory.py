"""Resident memory while data of different size is read and trained on: it must not grow with the data.

    python benchmarks/data_memory.py            about a minute; files are sparse and take no room on the disk

Each row is a process of its own. "read" opens the data and reads every example in random order, "train" makes
one epoch of a small model on it, with the original model as teacher.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

FEATURES = 4096
CACHE_BYTES = 64 << 20
SIZES_MB = (100, 2000)


def write_npy(path: Path, size_mb: int) -> None:
    """Write a .npy file of zeros as a sparse file."""
    rows = (size_mb << 20) // (FEATURES * 4)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, FEATURES)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * FEATURES * 4)


def write_npz(path: Path, size_mb: int) -> None:
    """Write the same as a compressed .npz archive, piece by piece."""
    rows = (size_mb << 20) // (FEATURES * 4)
    piece = bytes(FEATURES * 4 * 64)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, FEATURES)}
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, rows, 64):
            member.write(piece[: (min(rows, start + 64) - start) * FEATURES * 4])


def measure(job: str, path: Path) -> None:
    """Do one job and print peak resident memory above that before it, in MB, and seconds."""
    import onnx_ir as ir
    from onnx import TensorProto, helper, numpy_helper

    from onnxcompress.core.model import Model, Source
    from onnxcompress.core.resources import Resources
    from onnxcompress.engine.data import make_task, open_data
    from onnxcompress.engine.graph.torchgraph import TorchGraph
    from onnxcompress.engine.tensor_info import TensorInfo
    from onnxcompress.engine.training.trainer import Trainer

    weight = np.random.default_rng(0).standard_normal((FEATURES, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(weight, "W")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    torch_graph = TorchGraph(Model(ir.from_proto(proto), Source(None, "", 0)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", FEATURES))
    examples = open_data(path, [info])
    if job == "read":
        order = np.random.default_rng(0).permutation(len(examples))
        for start in range(0, len(order), 256):
            examples.inputs(order[start : start + 256])
    else:
        task = make_task(examples)
        Trainer(torch_graph, task, Resources(), batch_size=256, cache_bytes=CACHE_BYTES).run(1, lr=1e-3)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{(after - before) / 1024:.0f} {time.perf_counter() - started:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--job", choices=["read", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=SIZES_MB)
    arguments = parser.parse_args()
    if arguments.job is not None:
        measure(arguments.job, arguments.path)
        return
    print("| data | size, MB | job | peak memory above start, MB | seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, write in (("npy", write_npy), ("npz", write_npz)):
            for size_mb in arguments.sizes_mb:
                path = Path(folder) / f"d.{kind}"
                write(path, size_mb)
                for job in ("read", "train"):
                    command = [sys.executable, __file__, "--job", job, "--path", str(path)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    memory, seconds = done.stdout.split()
                    print(f"| .{kind} | {size_mb} | {job} | {memory} | {seconds} |", flush=True)
                path.unlink()


if __name__ == "__main__":
    main()

"""Matrix products."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from onnxcompress.ops._base import Example, Node, Shape, operator
from onnxcompress.ops._contraction import matmul_macs
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import F, Tensor, torch


@operator(
    "MatMul",
    examples=always(
        example(normal(3, 4), normal(4, 5, seed=1)),
        example(normal(2, 1, 3, 4), normal(5, 4, 2, seed=1)),
        example(normal(4), normal(4, 3, seed=1)),
        example(normal(3, 4), normal(4, seed=1)),
    ),
    macs=matmul_macs,
)
def _matmul(node: Node, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


def _gemm_examples(version: int) -> list[Example]:
    a, b, c = normal(3, 4), normal(4, 5, seed=1), normal(5, seed=2)
    old = {"broadcast": 1} if version < 7 else {}
    cases = [
        example(a, b, c, **old),
        example(a.T.copy(), b.T.copy(), normal(3, 5, seed=2), transA=1, transB=1, alpha=0.5, beta=0.3),
    ]
    if version >= 7:
        cases.append(example(a, b, normal(3, 1, seed=2), beta=0.7))
    return [*cases, example(a, b)] if version >= 11 else cases


@operator("Gemm", examples=_gemm_examples, macs=matmul_macs)
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transA", 0):
        a = a.transpose(0, 1)
    if alpha == beta == 1.0 and c is not None and c.dim() == 1 and a.is_floating_point():
        return F.linear(a, b if node.get("transB", 0) else b.transpose(0, 1), c)
    y = a @ (b.transpose(0, 1) if node.get("transB", 0) else b)
    if alpha != 1.0:
        y = (y * alpha).to(a.dtype)
    return y if c is None else y + (c if beta == 1.0 else (c * beta).to(a.dtype))


def _einsum_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return the product of the sizes of all letters, ellipsis axes included; 0 for a single input."""
    terms = node.attributes["equation"].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        assert shape is not None
        letters = re.findall(r"\.\.\.|[A-Za-z]", term)
        spread = len(shape) - (len(letters) - ("..." in letters))
        at = 0
        for letter in letters:
            if letter == "...":
                for i in range(spread):
                    key = f"...{spread - i}"
                    sizes[key] = max(sizes.get(key, 1), shape[at + i])
                at += spread
            else:
                sizes[letter] = max(sizes.get(letter, 1), shape[at])
                at += 1
    return math.prod(sizes.values()) if len(terms) > 1 else 0


@operator(
    "Einsum",
    examples=always(
        example(normal(3, 4), normal(4, 5, seed=1), equation="ij, jk -> ik"),
        example(normal(2, 3, 4), normal(2, 5, 4, seed=1), equation="...id,...jd->...ij"),
        example(normal(3, 3), equation="ii->i"),
        example(normal(3, 4), equation="ij->"),
        example(normal(2, 3), normal(4, 3, seed=1), normal(5, 2, seed=2), equation="ab,cb,da->cd"),
    ),
    macs=_einsum_macs,
)
def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    equation = node.attributes["equation"].replace(" ", "")
    if "->" not in equation:
        letters = equation.replace(",", "").replace("...", "")
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        equation += "->" + ("..." if "..." in equation else "") + "".join(once)
    return torch.einsum(equation, *inputs).to(inputs[0].dtype)  # torch sums integers in 64 bits


@operator("Det", examples=always(example(normal(3, 3)), example(normal(2, 4, 4))))
def _det(node: Node, x: Tensor) -> Tensor:
    determinant: Tensor = torch.linalg.det(x)
    return determinant


@operator(
    "FusedMatMul",
    domain="com.microsoft",
    examples=always(
        example(normal(2, 3, 4), normal(2, 4, 5, seed=1), alpha=0.5),
        example(normal(2, 4, 3), normal(2, 5, 4, seed=1), transA=1, transB=1),
    ),
    macs=matmul_macs,
)
def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    a, b = _turned(node, a, "A"), _turned(node, b, "B")
    return torch.mul(torch.matmul(a, b), node.get("alpha", 1.0))


def _turned(node: Node, x: Tensor, which: str) -> Tensor:
    if x.dim() > 1 and node.get(f"transBatch{which}", 0):
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if x.dim() > 1 and node.get(f"trans{which}", 0) else x

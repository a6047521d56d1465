"""The blocks of random networks: of images (``N C H W``) and of sequences (``N T C``)."""

from __future__ import annotations

import numpy as np
from random_nets import BATCH, LIMIT, Net

# images ----------------------------------------------------------------------------------------------------


def conv(net: Net, x: str) -> str:
    """Convolve, in groups where the width allows."""
    n, c, h, w = net.shapes[x]
    out, size = net.width(), net.pick([1, 3], "kernel")
    groups = net.pick([g for g in (1, 1, 1, 2, 3) if c % g == 0 and out % g == 0], "groups")
    inputs = [x, net.weight(out, c // groups, size, size)]
    if net.pick([True, False], "bias"):
        inputs.append(net.vector(out))
    options = {"pads": [1] * 4, "kernel_shape": [3, 3]} if size == 3 else {}
    return net.emit("Conv", inputs, (n, out, h, w), group=groups, **options)


def depthwise(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    times = net.pick([1, 1, 2], "multiplier") if c <= LIMIT // 2 else 1
    inputs = [x, net.weight(c * times, 1, 3, 3), net.vector(c * times)]
    return net.emit("Conv", inputs, (n, c * times, h, w), group=c, pads=[1] * 4)


def conv_transpose(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    kind = net.pick(["plain", "grouped", "depthwise"], "transposed")
    out = c if kind == "depthwise" else net.width()
    groups = c if kind == "depthwise" else 2 if kind == "grouped" and c % 2 == 0 and out % 2 == 0 else 1
    inputs = [x, net.weight(c, out // groups, 3, 3), net.vector(out)]
    return net.emit("ConvTranspose", inputs, (n, out, h, w), group=groups, pads=[1] * 4)


def batch_norm(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    statistics = [net.vector(c, 1.0), net.vector(c), net.vector(c)]
    variance = net.constant((0.5 + net.random.random(c)).astype(np.float32))
    return net.emit("BatchNormalization", [x, *statistics, variance], net.shapes[x])


def instance_norm(net: Net, x: str) -> str:
    c = net.shapes[x][1]
    inputs = [x, net.vector(c, 1.0), net.vector(c)]
    return net.emit("InstanceNormalization", inputs, net.shapes[x], epsilon=0.1)


def group_norm(net: Net, x: str) -> str:
    """Normalise groups of channels, as one operator or as exporters write it."""
    n, c, h, w = net.shapes[x]
    groups = net.pick([g for g in (2, 3, c, 1) if c % g == 0], "groups")
    scale, bias = net.vector(c, 1.0), net.vector(c)
    if net.pick([True, False], "one operator"):
        return net.emit("GroupNormalization", [x, scale, bias], net.shapes[x], num_groups=groups, epsilon=0.1)
    y = net.reshape(x, (0, groups, -1), (n, groups, c // groups * h * w))
    ones = net.constant(np.ones(groups, np.float32))
    zeros = net.constant(np.zeros(groups, np.float32))
    y = net.emit("InstanceNormalization", [y, ones, zeros], net.shapes[y], epsilon=0.1)
    y = net.reshape(y, (n, c, h, w), (n, c, h, w))
    scale = net.constant(1 + net.values(c, 1, 1, spread=0.3))
    return net.emit("Mul", [y, scale], net.shapes[x])


def prelu(net: Net, x: str) -> str:
    slope = net.values(net.pick([net.shapes[x][1], 1], "slopes"), 1, 1, spread=0.3)
    return net.emit("PRelu", [x, net.constant(slope)], net.shapes[x])


def excite(net: Net, x: str) -> str:
    """Squeeze and excite by 1×1 convolutions or by products."""
    n, c, _, _ = net.shapes[x]
    inner = net.pick([2, 4], "squeezed")
    pooled = net.emit("GlobalAveragePool", [x], (n, c, 1, 1))
    if net.pick([True, False], "by convolution"):
        gate = net.emit("Conv", [pooled, net.weight(inner, c, 1, 1), net.vector(inner)], (n, inner, 1, 1))
        gate = net.emit("Relu", [gate], (n, inner, 1, 1))
        gate = net.emit("Conv", [gate, net.weight(c, inner, 1, 1)], (n, c, 1, 1))
    else:
        gate = net.reshape(pooled, (0, -1), (n, c))
        gate = net.emit("Gemm", [gate, net.weight(c, inner), net.vector(inner)], (n, inner))
        gate = net.emit("MatMul", [net.activation(gate), net.weight(inner, c)], (n, c))
        gate = net.reshape(gate, (n, c, 1, 1), (n, c, 1, 1))
    gate = net.emit("Sigmoid", [gate], (n, c, 1, 1))
    return net.emit("Mul", [x, gate], net.shapes[x])


def shuffle(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    groups = net.pick([g for g in (2, 3, 4) if c % g == 0] or [1], "groups")
    y = net.reshape(x, (0, groups, c // groups, h, w), (n, groups, c // groups, h, w))
    y = net.emit("Transpose", [y], (n, c // groups, groups, h, w), perm=[0, 2, 1, 3, 4])
    return net.reshape(y, (n, -1, h, w), (n, c, h, w))


def pool(net: Net, x: str) -> str:
    kind = net.pick(["MaxPool", "AveragePool"], "pool")
    return net.emit(kind, [x], net.shapes[x], kernel_shape=[3, 3], pads=[1] * 4)


def pad(net: Net, x: str) -> str:
    """Pad channels with zeros (a shortcut), or places, cut away again."""
    n, c, h, w = net.shapes[x]
    if net.pick([True, False], "pad channels") and c + 3 <= LIMIT:
        return net.emit("Pad", [x, net.integers(0, 1, 0, 0, 0, 2, 0, 0)], (n, c + 3, h, w))
    y = net.emit("Pad", [x, net.integers(0, 0, 1, 0, 0, 0, 0, 1)], (n, c, h + 1, w + 1))
    pads = [net.integers(0, 0, -1, 0, 0, 0, 0, -1)]
    return net.emit("Pad", [y, *pads], (n, c, h, w))


def resize(net: Net, x: str) -> str:
    """Enlarge, then pool back to the size all images have."""
    n, c, h, w = net.shapes[x]
    if net.pick([True, False], "by sizes"):
        y = net.emit("Resize", [x, "", "", net.integers(n, c, 2 * h, 2 * w)], (n, c, 2 * h, 2 * w))
    else:
        scales = net.constant(np.array([1, 1, 2, 2], np.float32))
        y = net.emit("Resize", [x, "", scales], (n, c, 2 * h, 2 * w), mode="linear")
    return net.emit("AveragePool", [y], (n, c, h, w), kernel_shape=[2, 2], strides=[2, 2])


def pixel_shuffle(net: Net, x: str) -> str:
    n, c, h, w = net.shapes[x]
    if c % 4 == 0 and net.pick([True, False], "to space"):
        mode = net.pick(["CRD", "DCR"], "mode")
        y = net.emit("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
        return net.emit("MaxPool", [y], (n, c // 4, h, w), kernel_shape=[2, 2], strides=[2, 2])
    if c > LIMIT // 4 or h % 2 or w % 2:
        return x
    y = net.emit("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)
    y = net.emit("Resize", [y, "", "", net.integers(n, 4 * c, h, w)], (n, 4 * c, h, w))
    return net.emit("Identity", [y], (n, 4 * c, h, w))


def channels_last(net: Net, x: str) -> str:
    """Go to NHWC and back around a dense layer or a LayerNormalization, as ConvNeXt does."""
    n, c, h, w = net.shapes[x]
    y = net.emit("Transpose", [x], (n, h, w, c), perm=[0, 2, 3, 1])
    if net.pick([True, True, False], "dense"):
        out = net.width()
        y = net.emit("MatMul", [y, net.weight(c, out)], (n, h, w, out))
        y = net.emit("Add", [y, net.vector(out)], (n, h, w, out))
    else:
        y = net.emit("LayerNormalization", [y, net.vector(c, 1.0), net.vector(c)], (n, h, w, c), epsilon=0.1)
    return net.emit("Transpose", [y], (n, net.shapes[y][3], h, w), perm=[0, 3, 1, 2])


def reduce_places(net: Net, x: str) -> str:
    """Subtract each channel's mean."""
    n, c, _, _ = net.shapes[x]
    mean = net.emit("ReduceMean", [x, net.integers(2, 3)], (n, c, 1, 1))
    return net.emit("Sub", [x, mean], net.shapes[x])


def to_sequence(net: Net, x: str) -> str:
    """Make the places of an image the steps of a sequence, as vision transformers do."""
    n, c, h, w = net.shapes[x]
    y = net.reshape(x, (n, c, -1), (n, c, h * w))
    return net.emit("Transpose", [y], (n, h * w, c), perm=[0, 2, 1])


IMAGE = {
    "conv": conv,
    "conv again": conv,
    "depthwise": depthwise,
    "transposed": conv_transpose,
    "batch norm": batch_norm,
    "instance norm": instance_norm,
    "group norm": group_norm,
    "prelu": prelu,
    "activation": lambda net, x: net.activation(x),
    "add": lambda net, x: net.add(x),
    "affine": lambda net, x: net.affine(x, 1),
    "concat": lambda net, x: net.concat(x, 1),
    "split": lambda net, x: net.split(x, 1),
    "slice": lambda net, x: net.slice(x, 1),
    "gather": lambda net, x: net.gather(x, 1),
    "shuffle": shuffle,
    "excite": excite,
    "pool": pool,
    "pad": pad,
    "resize": resize,
    "pixel shuffle": pixel_shuffle,
    "channels last": channels_last,
    "reduce": reduce_places,
}

# sequences -------------------------------------------------------------------------------------------------


def dense(net: Net, x: str) -> str:
    """Multiply by a weight: as MatMul and Add, or as Gemm between two Reshapes."""
    n, t, c = net.shapes[x]
    out = net.width()
    if net.pick([True, True, False], "matmul"):
        y = net.emit("MatMul", [x, net.weight(c, out)], (n, t, out))
        return net.emit("Add", [net.vector(out), y], (n, t, out))
    y = net.reshape(x, (-1, c), (n * t, c))
    y = net.emit("Gemm", [y, net.weight(out, c), net.vector(out)], (n * t, out), transB=1)
    return net.reshape(y, (n, t, out), (n, t, out))


def layer_norm(net: Net, x: str) -> str:
    c = net.shapes[x][2]
    return net.emit("LayerNormalization", [x, net.vector(c, 1.0), net.vector(c)], net.shapes[x], epsilon=0.1)


def mlp(net: Net, x: str) -> str:
    """Widen, activate (also gated), narrow, add."""
    n, t, c = net.shapes[x]
    inner = net.width()
    y = net.emit("MatMul", [x, net.weight(c, inner)], (n, t, inner))
    gate = net.activation(y)
    if net.pick([True, False], "gated"):
        other = net.emit("MatMul", [x, net.weight(c, inner)], (n, t, inner))
        gate = net.emit("Mul", [gate, other], (n, t, inner))
    y = net.emit("MatMul", [gate, net.weight(inner, c)], (n, t, c))
    return net.emit("Add", [x, y], (n, t, c))


def attention(net: Net, x: str) -> str:
    """Attend: query, key and value as one product or three, heads of two or three channels."""
    n, t, c = net.shapes[x]
    heads, size = net.pick([2, 3], "heads"), net.pick([2, 3], "head size")
    width = heads * size
    parts = []
    if net.pick([True, False], "one product"):
        y = net.emit("MatMul", [x, net.weight(c, 3 * width)], (n, t, 3 * width))
        y = net.emit("Add", [y, net.vector(3 * width)], (n, t, 3 * width))
        y = net.reshape(y, (n, t, 3, heads, size), (n, t, 3, heads, size))
        y = net.emit("Transpose", [y], (3, n, heads, t, size), perm=[2, 0, 3, 1, 4])
        for k in range(3):
            index = net.constant(np.array(k, np.int64))
            parts.append(net.emit("Gather", [y, index], (n, heads, t, size), axis=0))
    else:
        for _ in range(3):
            y = net.emit("MatMul", [x, net.weight(c, width)], (n, t, width))
            y = net.reshape(y, (0, 0, heads, size), (n, t, heads, size))
            parts.append(net.emit("Transpose", [y], (n, heads, t, size), perm=[0, 2, 1, 3]))
    query, key, value = parts
    key = net.emit("Transpose", [key], (n, heads, size, t), perm=[0, 1, 3, 2])
    scores = net.emit("MatMul", [query, key], (n, heads, t, t))
    scores = net.emit("Softmax", [scores], (n, heads, t, t), axis=-1)
    y = net.emit("MatMul", [scores, value], (n, heads, t, size))
    y = net.emit("Transpose", [y], (n, t, heads, size), perm=[0, 2, 1, 3])
    y = net.reshape(y, (n, t, -1), (n, t, width))
    y = net.emit("MatMul", [y, net.weight(width, c)], (n, t, c))
    return net.emit("Add", [x, y], (n, t, c))


def recurrent(net: Net, x: str) -> str:
    """Run an LSTM, GRU or RNN over the steps, in one direction or both."""
    n, t, c = net.shapes[x]
    kind, hidden = net.pick(["LSTM", "GRU", "RNN"], "cell"), net.pick([2, 4, 5], "hidden")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    ways = net.pick([1, 2], "directions")
    options = {"direction": "bidirectional"} if ways == 2 else {}
    if kind == "GRU":
        options["linear_before_reset"] = net.pick([0, 1], "reset")
    weights = [net.values(ways, gates * hidden, d, spread=1 / np.sqrt(d)) for d in (c, hidden)]
    inputs = [net.constant(w) for w in weights]
    inputs.append(net.constant(net.values(ways, 2 * gates * hidden, spread=0.3)))
    steps = net.emit("Transpose", [x], (t, n, c), perm=[1, 0, 2])
    y = net.emit(kind, [steps, *inputs], (t, ways, n, hidden), hidden_size=hidden, **options)
    y = net.emit("Transpose", [y], (n, t, ways, hidden), perm=[2, 0, 1, 3])
    return net.reshape(y, (n, t, ways * hidden), (n, t, ways * hidden))


def tied(net: Net, x: str) -> str:
    """Multiply by a weight that other layers of the same widths use as well, or by an embedding's table."""
    n, t, c = net.shapes[x]
    tables = [table for table, width in net._tables if width == c]
    if tables:
        turned = net.emit("Transpose", [net.pick(tables, "table")], (c, 9), perm=[1, 0])
        return net.emit("MatMul", [x, turned], (n, t, 9))
    weight, middle = net.weight(c, c), net.emit("Tanh", [x], (n, t, c))
    y = net.emit("MatMul", [middle, weight], (n, t, c))
    return net.emit("MatMul", [net.activation(y), weight], (n, t, c))


def position(net: Net, x: str) -> str:
    n, t, c = net.shapes[x]
    return net.emit("Add", [x, net.constant(net.values(1, t, c))], (n, t, c))


def class_token(net: Net, x: str) -> str:
    """Put a learnt step in front, as vision transformers do, and leave another out."""
    n, t, c = net.shapes[x]
    token = net.emit("Expand", [net.constant(net.values(1, 1, c)), net.integers(n, 1, 1)], (n, 1, c))
    y = net.emit("Concat", [token, x], (n, t + 1, c), axis=1)
    inputs = [y, net.integers(0), net.integers(t), net.integers(1)]
    return net.emit("Slice", inputs, (n, t, c))


def softmax(net: Net, x: str) -> str:
    return net.emit("Softmax", [x], net.shapes[x], axis=-1)


def to_image(net: Net, x: str) -> str:
    """Convolve over the steps, which become the height of an image."""
    n, t, c = net.shapes[x]
    y = net.emit("Transpose", [x], (n, c, t), perm=[0, 2, 1])
    y = net.emit("Conv", [y, net.weight(c, 1, 3)], (n, c, t), group=c, pads=[1, 1])
    return net.emit("Transpose", [y], (n, t, c), perm=[0, 2, 1])


SEQUENCE = {
    "dense": dense,
    "dense again": dense,
    "layer norm": layer_norm,
    "activation": lambda net, x: net.activation(x),
    "add": lambda net, x: net.add(x),
    "affine": lambda net, x: net.affine(x, 2),
    "concat": lambda net, x: net.concat(x, 2),
    "split": lambda net, x: net.split(x, 2),
    "slice": lambda net, x: net.slice(x, 2),
    "gather": lambda net, x: net.gather(x, 2),
    "mlp": mlp,
    "attention": attention,
    "recurrent": recurrent,
    "tied": tied,
    "position": position,
    "class token": class_token,
    "softmax": softmax,
    "convolution": to_image,
}


FAMILIES = {"image": IMAGE, "sequence": SEQUENCE}


def grown(choices, steps: int, *, must: tuple[str, str] | None = None) -> Net:
    """Return a network of so many blocks.

    Args:
        choices: where choices come from.
        steps: number of blocks.
        must: family and name of a block that is there for certain, between two layers.
    """
    family = must[0] if must else choices.pick(FAMILIES, "family")
    net = Net(choices, sequence=family == "sequence")
    images = family == "image"
    if "x" in net.shapes and choices.pick([True, True, True, False], "stem"):
        # What meets the input itself, which holds no channels, cannot be cut.
        (conv if images else dense)(net, "x")
        del net.shapes["x"]
    blocks = [choices.pick(IMAGE if images else SEQUENCE, "block") for _ in range(steps)]
    if must is not None:
        around = ("conv", must[1], "conv") if images else ("dense", must[1], "dense")
        blocks = [*blocks[: steps // 2], *around, *blocks[steps // 2 :]]
    x = net.some(4 if images else 3)
    for k, block in enumerate(blocks):
        if must is None or not 0 < k - steps // 2 < 3:
            x = net.some(4 if images else 3)
        if images and must is None and k == len(blocks) - 2 and choices.pick([False, False, True], "turn"):
            x, images = to_sequence(net, x), False
            blocks[k + 1 :] = [choices.pick(SEQUENCE, "block") for _ in range(2)]
            continue
        x = (IMAGE if images else SEQUENCE)[block](net, x)
        if must is None and choices.pick([True, False], "a layer behind it"):
            # Without layers in between, what one block ties to an output freezes all others.
            x = (conv if images else dense)(net, x)
    assert net.shapes[x][0] == BATCH
    return net

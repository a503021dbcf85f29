#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/reference.safetensors: small matrices and what SINQ makes of them.

An implementation in numpy (float32) written from the paper (arXiv 2509.22944, Algorithm 1) and from the Python package
`sinq` 0.2.0, independent of the library's code. The library's tests compare themselves with the file, so nobody needs
Python to run them.

    python3 make_reference.py [--out FILE]              write the file
    python3 make_reference.py --check DIR               compare this script with files the package itself has written
"""
import argparse
import json
import pathlib
import struct

import numpy as np

f32 = np.float32
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], f32)
NF3 = np.array([-1.0, -0.5350227355957031, -0.2469314038753510, 0.0, 0.1833375245332718, 0.3819939494132996,
                0.6229856610298157, 1.0], f32)


def std(m, axis):
    return m.std(axis=axis, ddof=1, dtype=np.float64).astype(f32)


def imbalance(m):
    r, c = std(m, 1), std(m, 0)
    return f32(max(r.max(), c.max()) / max(min(r.min(), c.min()), f32(1e-12)))


def sinkhorn(m, iterations=16):
    """-> row factors, column factors, imbalance before and after"""
    target = min(np.clip(std(m, 1), 1e-3, 1e3).min(), np.clip(std(m, 0), 1e-3, 1e3).min()) + f32(1e-6)
    log_col, log_row = np.zeros(m.shape[1], f32), np.zeros((m.shape[0], 1), f32)
    best = imbalance(m)
    before, row, col = best, np.exp(log_row), np.exp(log_col)
    for _ in range(iterations):
        now = (m / np.exp(log_col)) / np.exp(log_row)
        unevenness = imbalance(now)
        if unevenness > best:
            break
        best, row, col = unevenness, np.exp(log_row), np.exp(log_col)
        step = lambda d: np.log(np.clip(np.clip(d, 1e-3, 1e3) / target, f32(0.7), f32(2.0)))
        log_col = np.clip(log_col + step(std(now, 0)), f32(-0.3), f32(10)).astype(f32)
        log_row = np.clip(log_row + step(std(now, 1))[:, None], f32(-0.3), f32(10)).astype(f32)
    return row[:, 0], col, (before, best)


def uniform(x, bits):
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    scale = np.maximum(high - low, f32(1e-4)) / f32(2**bits - 1)
    zero = -np.round(low / scale)
    return np.clip(np.round(x / scale + zero), 0, 2**bits - 1), scale, zero


def normal_float(x, levels):
    mean = x.mean(1, keepdims=True, dtype=np.float64).astype(f32)
    scale = np.maximum(np.abs(x - mean).max(1, keepdims=True), f32(1e-4))
    zero = -mean / scale
    return np.abs((x / scale + zero)[..., None] - levels).argmin(-1), scale, zero


def hqq(x, bits, p=0.7, beta=10, iterations=20):
    top = f32(2**bits - 1)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    span = high - low
    inverse = np.where(np.abs(span) <= 1e-4, f32(1), top / np.where(span == 0, f32(1), span)).astype(f32)
    inverse = np.minimum(inverse, f32(2e4))
    zero = -low * inverse
    best, best_zero = np.inf, zero
    for _ in range(iterations):
        codes = np.clip(np.round(x * inverse + zero), 0, top)
        restored = (codes - zero) / inverse
        d = x - restored
        size = np.clip(np.abs(d), f32(1e-5), f32(1e5))
        e = np.sign(d) * np.maximum(size - f32(1 / beta) * size ** f32(p - 1), 0)
        zero = (codes - (x - e) * inverse).mean(1, keepdims=True, dtype=np.float64).astype(f32)
        error = np.abs(d).mean(dtype=np.float64)
        if error < best:
            best, best_zero = error, zero
    return codes, 1 / inverse, best_zero


def quantize(w, method, bits, group):
    groups = range(0, w.shape[1], group)
    codes, scales, zeros, cols = np.zeros(w.shape, np.uint8), [], [], []
    for g in groups:
        m = np.ascontiguousarray(w[:, g:g + group])
        row, col, _ = sinkhorn(m) if method != "rtn" else (np.ones(len(m), f32), np.ones(m.shape[1], f32), None)
        x = (m / col) / row[:, None]
        if method == "sinq_nf4":
            q, scale, zero = normal_float(x, NF4)
        elif method == "sinq_nf3":
            q, scale, zero = normal_float(x, NF3)
        elif method == "sinq_hqq":
            q, scale, zero = hqq(x, bits)
        else:
            q, scale, zero = uniform(x, bits)
        codes[:, g:g + group] = q
        scales.append(scale[:, 0] * row)
        zeros.append(zero[:, 0])
        cols.append(col)
    return codes, np.stack(scales, 1).astype(f32), np.stack(zeros, 1).astype(f32), np.concatenate(cols).astype(f32)


def everything(w, group, prefix=""):
    out = {prefix + "weight": w}
    tiles = [sinkhorn(np.ascontiguousarray(w[:, g:g + group])) for g in range(0, w.shape[1], group)]
    out[prefix + "stripe.row"] = np.stack([t[0] for t in tiles])
    out[prefix + "stripe.imbalance_before_after"] = np.array([t[2] for t in tiles], f32)
    for method, widths in {"rtn": (2, 3, 4, 8), "sinq": (2, 3, 4, 5, 6, 8), "sinq_hqq": (2, 3, 4, 8),
                           "sinq_nf4": (4,), "sinq_nf3": (3,)}.items():
        for bits in widths:
            codes, scale, zero, col = quantize(w, method, bits, group)
            name = f"{prefix}stripe.{method}.{bits}."
            out |= {name + "codes": codes, name + "scale": scale, name + "zero": zero, name + "col_scale": col}
    return out


def write(path, tensors):
    header, data = {}, b""
    for name, t in tensors.items():
        kind = {"uint8": "U8", "float32": "F32"}[t.dtype.name]
        raw = np.ascontiguousarray(t).tobytes()
        header[name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read(path):
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = np.frombuffer(raw[8 + n + a:8 + n + b], {"U8": "u1", "F32": "f4"}[t["dtype"]]).reshape(t["shape"])
    return out


def check(folder):
    for path in sorted(folder.glob("*.safetensors")):
        golden = read(path)
        mine = everything(golden["weight"], 16 if golden["weight"].shape[1] == 80 else 64)
        for name, value in mine.items():
            if name.endswith("codes") and name in golden:
                print(path.stem, name, int((value != golden[name]).sum()), "of", value.size, "codes differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("reference.safetensors"))
    parser.add_argument("--check", type=pathlib.Path, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.check:
        return check(arguments.check)
    rng = np.random.default_rng(20)
    gaussian = (0.02 * rng.standard_normal((24, 128))).astype(f32)
    scaled = (gaussian[:, :80] * np.exp(rng.normal(0, 0.7, (24, 1))) * np.exp(rng.normal(0, 0.7, (1, 80)))).astype(f32)
    outliers = gaussian[:20, :64].copy()
    outliers[rng.integers(0, 20, 6), rng.integers(0, 64, 6)] *= 40
    holes = gaussian[:, 64:].copy()
    holes[5, :] = 0
    holes[:, 7] = 0
    holes[9, :] = f32(0.25)
    tensors = {}
    for name, w in {"gaussian": gaussian, "scaled": scaled, "outliers": outliers, "holes": holes}.items():
        tensors |= everything(np.ascontiguousarray(w), 64, name + ".")
    write(arguments.out, tensors)


if __name__ == "__main__":
    main()

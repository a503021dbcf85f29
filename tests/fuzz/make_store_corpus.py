# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of tests/fuzz/corpus/store_fuzz: small files that lead the fuzzer to every part of the reader.

    python3 tests/fuzz/make_store_corpus.py
"""
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus" / "store_fuzz"


def file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def matrix(**changes):
    """A stored matrix, 2 x 20, groups of 16."""
    d = dict(version=1, rows=2, cols=20, bits=4, levels="uniform", group_size=16, tile="stripe", scale="f16",
             zero="f16", col_scale="f16", signed_scale=False, coarse_groups=0)
    d.update(changes)
    groups = -(-d["cols"] // (d["group_size"] or d["cols"]))
    panels = 1 if d["tile"] == "stripe" else -(-d["rows"] // (d["group_size"] or d["cols"]))
    floats = {"f16": ("F16", 2), "bf16": ("BF16", 2), "f32": ("F32", 4)}
    parts = [("codes", "U8", [d["rows"], (d["cols"] * d["bits"] + 7) // 8], 1)]
    for name in ("scale", "zero"):
        if d[name] in floats:
            dtype, size = floats[d[name]]
            parts.append((name, dtype, [d["rows"], groups], size))
        elif d[name] != "none":
            parts.append((name, "U8", [d["rows"], (groups * int(d[name][1]) + 7) // 8], 1))
    if d["scale"] not in floats:
        coarse = -(-groups // d["coarse_groups"]) if d["coarse_groups"] else 1
        parts.append(("coarse_scale", "F16", [d["rows"], coarse], 2))
    if d["col_scale"] != "none":
        dtype, size = floats[d["col_scale"]]
        parts.append(("col_scale", dtype, [panels, d["cols"]], size))
    if d["levels"] == "table":
        parts.append(("levels", "I8", [1 << d["bits"]], 1))
    header = {"__metadata__": {"sinq:w": json.dumps(d, separators=(",", ":"))}}
    data = b""
    for name, dtype, shape, size in parts:
        n = size
        for extent in shape:
            n *= extent
        header["w." + name] = tensor(dtype, shape, len(data), len(data) + n)
        data += b"\0" * n
    return file(header, data)


SEEDS = {
    "empty": b"",
    "no_tensors": file({}),
    "metadata": file({"__metadata__": {"format": "pt", "\u00e4": "\u20ac"}}),
    "one_float": file({"a": tensor("F32", [1, 1], 0, 4)}, b"\0\0\x80\x3f"),
    "scalar_and_empty": file({"s": tensor("F64", [], 0, 8), "e": tensor("I64", [0, 3], 8, 8)}, b"\0" * 8),
    "two": file({"a": tensor("F16", [2, 2], 0, 8), "b": tensor("BF16", [2, 1, 2], 8, 16)}, b"\0" * 16),
    "sub_byte": file({"a": tensor("F4", [2], 0, 1), "b": tensor("F6_E2M3", [4], 1, 4)}, b"\0" * 4),
    "padded": file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}      ', b"x"),
    "escapes": file(b'{"\\u0061\\ud83d\\ude00\\n":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}', b"\1"),
    "overlap": file({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"\0" * 6),
    "duplicate": file(b'{"a":{},"a":{}}'),
    "gigantic": file({"a": tensor("F64", [1 << 62, 4], 0, 0)}),
    "length": struct.pack("<Q", 1 << 63) + b"{}",
    "uniform": matrix(),
    "symmetric": matrix(bits=6, levels="symmetric", zero="none", scale="f32"),
    "nf4_square": matrix(levels="nf4", tile="square", rows=18, col_scale="f32"),
    "nf3_integers": matrix(bits=3, levels="nf3", scale="u6", zero="u4", signed_scale=True, coarse_groups=1),
    "table": matrix(bits=2, levels="table", zero="none", scale="u8", col_scale="none", group_size=0),
    "eight_bits": matrix(bits=8, zero="u8"),
    "stack": file({"__metadata__": {"sinq:s": '{"version":1,"stack":0}'}}),
    "later_version": file({"__metadata__": {"sinq:s": '{"version":2}'}}),
    "config": b'{"hidden_size": 288, "rms_norm_eps": 1e-05, "tie": true, "eos": [1, 2], "rope": {"factor": 8.0}, "n": null}',
    "index": b'{"metadata":{"total_size":2},"weight_map":{"a":"model-00001-of-00002.safetensors"}}',
    "deep": b"[" * 70,
}

if __name__ == "__main__":
    HERE.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (HERE / name).write_bytes(data)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what the methods of the library cost on two trained models, with the programs as a user calls them.

    cmake --preset demo && cmake --build --preset demo
    python3 bench/core_results.py build/demo/examples DATA > core-tables.md

DATA holds stories15M-hf/ and stories260K-hf/, each with config.json, model.safetensors and windows of tokens. The tables
go to standard output as Markdown. All numbers but the times come out the same on every machine.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

PROGRAMS, DATA = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

# What the Python reference gives on stories15M (perplexity, KL).
REFERENCE = {
    "RTN 4": (5.710, 0.117), "RTN 3": (8.58, 0.558), "HQQ 4": (5.787, 0.110), "HQQ 3": (8.30, 0.549),
    "SINQ 4": (5.634, 0.0783), "SINQ 3": (7.90, 0.455), "NF4 4": (5.786, 0.0974), "SINQ-NF4 4": (5.603, 0.0771),
    "SINQ + HQQ 4": (5.642, 0.0728), "SINQ + HQQ 3": (7.08, 0.373),
}
METHODS = [
    ("RTN", "--balance none"), ("HQQ", "--balance none --refine hqq"), ("SINQ", ""), ("SINQ + HQQ", "--refine hqq"),
]
NF = [("NF4", "--balance none --rounding nf4"), ("SINQ-NF4", "--rounding nf4")]
CORE = [(m, b, f"--bits {b} {o}".strip()) for b in (4, 3) for m, o in METHODS] + [(m, 4, o) for m, o in NF]


def call(program, *arguments):
    done = subprocess.run([PROGRAMS / program, *map(str, arguments), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(map(str, arguments))}: {done.stderr}")
    return json.loads(done.stdout)


def windows(model):
    return next((DATA / model).glob("*.tokens.safetensors"))


KNOWN = {}  # bytes of a quantized model -> its evaluation; some options lead to the same model


def evaluate(model, options):
    with tempfile.TemporaryDirectory() as folder:
        q = pathlib.Path(folder) / "q"
        report = call("sinq_quantize", DATA / model, q, *options.split())
        key = hashlib.sha256((q / "model.safetensors").read_bytes()).digest()
        if key not in KNOWN:
            KNOWN[key] = call("sinq_perplexity", q, "--tokens", windows(model), "--reference", DATA / model)
        result = KNOWN[key]
    error = sum(t["relative_error"] ** 2 * t["rows"] * t["cols"] for t in report["quantized"])
    size = sum(t["rows"] * t["cols"] for t in report["quantized"])
    return result, (error / size) ** 0.5


def percent(value, reference):
    return f"{100 * (value / reference - 1):+.2f} %"


def table(model, rows, compare):
    head = ["method", "bits", "bits/weight", "perplexity", "KL", "flips", "error"]
    head += ["perplexity, reference", "KL, reference"] if compare else []
    print("|", " | ".join(head), "| options |")
    print("|---|" + "---:|" * (len(head) - 1) + "---|")
    for name, bits, options in rows:
        r, error = evaluate(model, options)
        cells = [name, str(bits), f"{r['bits_per_weight']:.4f}", f"{r['perplexity']:.4f}", f"{r['kl']:.5f}",
                 f"{r['flip_rate_percent']:.2f} %", f"{100 * error:.2f} %"]
        if compare and f"{name} {bits}" in REFERENCE:
            p, k = REFERENCE[f"{name} {bits}"]
            cells += [f"{p:g} ({percent(r['perplexity'], p)})", f"{k:g} ({percent(r['kl'], k)})"]
        elif compare:
            cells += ["-", "-"]
        print("|", " | ".join(cells), f"| `{options}` |" if options else "| |", flush=True)
    print()


for model in ("stories15M-hf", "stories260K-hf"):
    full = call("sinq_perplexity", DATA / model, "--tokens", windows(model))
    print(f"### {model}\n\nFull precision: perplexity {full['perplexity']:.6g} over {full['predicted_tokens']} tokens.\n")
    table(model, CORE, model == "stories15M-hf")

print("### Auxiliaries in 16 and in 8 bits (stories15M-hf)\n")
table("stories15M-hf", [(m, b, f"--bits {b} {o} --aux-bits {a}".replace("  ", " "))
                        for b in (4, 3) for m, o in (("SINQ", ""), ("SINQ + HQQ", "--refine hqq")) for a in (16, 8)], False)

print("### Kurtosis gate off and on (the reference: on, 5)\n")
for model in ("stories15M-hf", "stories260K-hf"):
    tensors = call("sinq_inspect", DATA / model)["tensors"]
    high = [t for t in tensors if t.get("kurtosis") is not None and "layers" in t["name"] and t["kurtosis"] > 5]
    print(f"{model}: {len(high)} linear layers have a kurtosis above 5.\n")
    table(model, [("SINQ", b, f"--bits {b} --kurtosis-gate {g}") for b in (4, 3) for g in (0, 5, 3.5)], False)

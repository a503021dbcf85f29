#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the table of presets in results/quality.md: python3 bench/quality_results.py build/demo/examples ../shared/data"""
import json
import pathlib
import subprocess
import sys
import tempfile

programs, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
demo = pathlib.Path(__file__).parent.parent / "examples" / "demo-model"
models = {
    "stories15M": (data / "stories15M-hf", "tinystories-valid-60-windows.tokens.safetensors"),
    "stories260K": (data / "stories260K-hf", "tinystories-valid-30-windows.tokens.safetensors"),
    "demo model": (demo, "held-out.tokens.safetensors"),
}

print("| model | preset | bits/weight | perplexity | KL | flips |\n|---|---|---:|---:|---:|---:|")
for name, (model, tokens) in models.items():
    for preset in ("2.5", "3", "3.5", "4", "4.5", "5", "6", "8"):
        with tempfile.TemporaryDirectory() as directory:
            out = directory + "/quantized"
            subprocess.run([programs / "sinq_quantize", model, out, "--preset", preset], check=True, stdout=sys.stderr)
            run = [programs / "sinq_perplexity", out, "--tokens", model / tokens, "--reference", model, "--json"]
            r = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
        print(f"| {name} | {preset} | {r['bits_per_weight']:.3f} | {r['perplexity']:.4f} | {r['kl']:.5f} "
              f"| {r['flip_rate_percent']:.2f} % |", flush=True)

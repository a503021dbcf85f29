#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a small byte-level Llama and writes it as a Hugging Face model directory.

The first 90 % of the text is trained on, the last 10 % is held out. The output directory gets
model.safetensors (F16), config.json, held-out.txt and held-out.tokens.safetensors. Each time the
loss on the held-out text improves, the model there is replaced, so it is always the best so far.

Needs jax, optax, numpy and safetensors. For one CPU thread, set
XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".
"""
import argparse
import functools
import json
import math
import os
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save

# The model.
VOCAB, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, CONTEXT = 256, 192, 608, 4, 6, 2, 256
HEAD_DIM = HIDDEN // HEADS
ROPE_THETA, NORM_EPS = 10000.0, 1e-5

# The training.
SEED, BATCH, STEPS, WARMUP = 1, 8, 4000, 200
PEAK_RATE, FINAL_RATE, WEIGHT_DECAY, BETAS, CLIP = 3e-3, 3e-5, 0.1, (0.9, 0.98), 1.0
QUERY_BLOCK = 64  # attention computes a block of queries against the keys up to its end only
EVAL_EVERY, EVAL_BATCH = 400, 29
DEMO_WINDOWS = 96  # windows of held-out text in held-out.tokens.safetensors


def config():
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": NORM_EPS, "rope_theta": ROPE_THETA,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float16",
        "attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": None,
    }


def init(rng):
    """The parameters under their Hugging Face names; a matrix has a row per output feature."""
    out_std = 0.02 / math.sqrt(2 * LAYERS)  # of the matrices that write to the residual stream
    p = {"model.embed_tokens.weight": rng.normal(0, 0.02, (VOCAB, HIDDEN)), "model.norm.weight": np.ones(HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        p[layer + "input_layernorm.weight"] = np.ones(HIDDEN)
        p[layer + "post_attention_layernorm.weight"] = np.ones(HIDDEN)
        for name, rows, cols, std in [
            ("self_attn.q_proj", HIDDEN, HIDDEN, 0.04), ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN, 0.04),
            ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN, 0.04), ("self_attn.o_proj", HIDDEN, HIDDEN, out_std),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN, 0.04), ("mlp.up_proj", INTERMEDIATE, HIDDEN, 0.04),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE, out_std),
        ]:
            p[layer + name + ".weight"] = rng.normal(0, std, (rows, cols))
    return {name: jnp.asarray(value, jnp.float32) for name, value in p.items()}


def rms_norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + NORM_EPS) * weight


def rope(x):
    """Rotates x[batch, head, time, HEAD_DIM]; dimension d is paired with d + HEAD_DIM / 2."""
    rate = ROPE_THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = np.outer(np.arange(x.shape[2]), np.concatenate([rate, rate]))
    low, high = jnp.split(x, 2, -1)
    return x * np.cos(angle).astype(np.float32) + jnp.concatenate([-high, low], -1) * np.sin(angle).astype(np.float32)


def attention(q, k, v):
    """q[batch, head, time, d] against k and v[batch, kv head, time, d], causal."""
    batch, _, length, _ = q.shape
    group = HEADS // KV_HEADS
    q = q.reshape(batch, KV_HEADS, group, length, HEAD_DIM) / math.sqrt(HEAD_DIM)
    out = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        rows = (end - start) * group
        block = q[:, :, :, start:end].reshape(batch, KV_HEADS, rows, HEAD_DIM)
        score = jnp.einsum("bkqd,bktd->bkqt", block, k[:, :, :end])
        visible = np.arange(start, end)[:, None] >= np.arange(end)[None, :]
        score = jnp.where(np.tile(visible, (group, 1)), score, -1e9)
        mixed = jnp.einsum("bkqt,bktd->bkqd", jax.nn.softmax(score, -1), v[:, :, :end])
        out.append(mixed.reshape(batch, HEADS, end - start, HEAD_DIM))
    return jnp.concatenate(out, 2)


def logits(p, tokens):
    """Next-byte logits of tokens[batch, time]."""
    batch, length = tokens.shape
    x = p["model.embed_tokens.weight"][tokens]
    for i in range(LAYERS):
        w = lambda name: p[f"model.layers.{i}.{name}.weight"]
        h = rms_norm(x, w("input_layernorm"))
        split = lambda y, heads: y.reshape(batch, length, heads, HEAD_DIM).transpose(0, 2, 1, 3)
        q = rope(split(h @ w("self_attn.q_proj").T, HEADS))
        k = rope(split(h @ w("self_attn.k_proj").T, KV_HEADS))
        v = split(h @ w("self_attn.v_proj").T, KV_HEADS)
        h = attention(q, k, v).transpose(0, 2, 1, 3).reshape(batch, length, HIDDEN)
        x = x + h @ w("self_attn.o_proj").T
        h = rms_norm(x, w("post_attention_layernorm"))
        h = jax.nn.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)
        x = x + h @ w("mlp.down_proj").T
    return rms_norm(x, p["model.norm.weight"]) @ p["model.embed_tokens.weight"].T


def loss(p, windows):
    """Mean negative log-likelihood (nats per byte) of every byte of a window but its first."""
    windows = windows.astype(jnp.int32)
    out = logits(p, windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(out, windows[:, 1:]).mean()


eval_loss = jax.jit(loss)


def mean_loss(p, windows):
    pieces = [windows[i:i + EVAL_BATCH] for i in range(0, len(windows), EVAL_BATCH)]
    return sum(float(eval_loss(p, piece)) * len(piece) for piece in pieces) / len(windows)


def batches(text, rng):
    """Windows of CONTEXT + 1 bytes; each pass over the text has its own phase and order."""
    rows = []
    while True:
        starts = np.arange(rng.integers(CONTEXT), len(text) - CONTEXT, CONTEXT)
        for start in rng.permutation(starts):
            rows.append(text[start:start + CONTEXT + 1])
            if len(rows) == BATCH:
                yield np.stack(rows)
                rows = []


def write(path, data):
    """Replaces a file in one step, so that a reader never sees half of it."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.replace(path + ".new", path)


def export(p, directory):
    half = {name: np.asarray(value, np.float16) for name, value in sorted(p.items())}
    write(os.path.join(directory, "model.safetensors"), save(half, {"format": "pt"}))
    return {name: jnp.asarray(value, jnp.float32) for name, value in half.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="the training text, read as bytes")
    parser.add_argument("output", help="the model directory to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--state", metavar="FILE", help="save the training state here now and then, and go on from it if it exists")
    args = parser.parse_args()

    data = np.fromfile(args.text, np.uint8)
    train_text, held_out = np.split(data, [len(data) * 9 // 10])
    windows = held_out[:len(held_out) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    demo = windows[:DEMO_WINDOWS]
    probe = train_text[:windows.size].reshape(windows.shape)  # as much of the training text, for its loss

    os.makedirs(args.output, exist_ok=True)
    write(os.path.join(args.output, "config.json"), (json.dumps(config(), indent=2) + "\n").encode())
    write(os.path.join(args.output, "held-out.txt"), held_out.tobytes())
    tokens = {"tokens": demo.reshape(-1).astype(np.int32),
              "offsets": np.arange(len(demo) + 1, dtype=np.int32) * CONTEXT}
    write(os.path.join(args.output, "held-out.tokens.safetensors"), save(tokens))

    p = init(np.random.default_rng(SEED))
    print(f"{sum(v.size for v in p.values())} parameters, {len(train_text)} bytes to train on, "
          f"{len(held_out)} held out", flush=True)
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, min(WARMUP, args.steps // 4), args.steps, FINAL_RATE)
    matrices = jax.tree.map(lambda v: v.ndim == 2, p)  # norm weights do not decay
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP),
                            optax.adamw(rate, *BETAS, weight_decay=WEIGHT_DECAY, mask=matrices))
    state = optimizer.init(p)

    done, best, kept = 0, math.inf, None
    if args.state and os.path.exists(args.state):
        with open(args.state, "rb") as file:  # unpickles: pass only a file that this script wrote
            done, best, kept, p, state = jax.tree.map(jnp.asarray, pickle.load(file))
        done, best = int(done), float(best)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, state, batch):
        value, gradient = jax.value_and_grad(loss)(p, batch)
        update, state = optimizer.update(gradient, state, p)
        return optax.apply_updates(p, update), state, value

    stream = batches(train_text, np.random.default_rng((SEED, done)))
    recent, begin = [], time.time()
    for i in range(done + 1, args.steps + 1):
        p, state, value = step(p, state, next(stream))
        recent.append(value)
        if i % 50 == 0:
            mean = np.mean(recent[-50:])
            seconds = time.time() - begin
            print(f"step {i} loss {mean:.4f} {(i - done) * BATCH * CONTEXT / seconds:.0f} bytes/s", flush=True)
        if i % EVAL_EVERY == 0 or i == args.steps:
            value = mean_loss(p, windows)
            print(f"step {i} held-out loss {value:.4f} after {time.time() - begin:.0f} s", flush=True)
            if value < best:
                best, kept = value, (i, export(p, args.output))
        if args.state and i % EVAL_EVERY == 0:
            write(args.state, pickle.dumps(jax.tree.map(np.asarray, (i, best, kept, p, state))))
    seconds = time.time() - begin
    print(f"kept step {kept[0]} of {args.steps}, {seconds:.0f} s; of the F16-rounded weights: "
          f"loss on training text {mean_loss(kept[1], probe):.4f}, on held-out text {mean_loss(kept[1], windows):.4f}, "
          f"perplexity on the first {len(demo)} held-out windows {math.exp(mean_loss(kept[1], demo)):.6f}")


if __name__ == "__main__":
    main()

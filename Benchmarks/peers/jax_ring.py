"""Measures the ring attention of the paper's authors (ringattention 0.1.2, JAX) on devices that are parts of this CPU.

    python jax_ring.py --shapes 1,8,8192,64 --devices 2

Prints the fields of `ringzoo attention bench --json`. Shapes are B,H,T,D; the mask is causal, the layout contiguous, which is
what that code offers.
"""

import argparse
import os


def arguments():
    parser = argparse.ArgumentParser(description="ringattention 0.1.2 on the CPU.")
    parser.add_argument("--shapes", nargs="+", default=["1,8,8192,64"], metavar="B,H,T,D")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=512, help="rows and columns of a block (default 512)")
    return parser.parse_args()


def main():
    options = arguments()
    # Read when JAX is loaded.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp
    from jax.experimental.shard_map import shard_map
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from ringattention import ringattention

    from timing import emit, median_seconds, say

    mesh = Mesh(jax.devices(), ("sp",))
    tokens_cut = PartitionSpec(None, "sp", None, None)

    def ring(chunk):
        settings = dict(
            causal_block_size=1, deterministic=True, dropout_rng=None, attn_pdrop=0.0, query_chunk_size=chunk,
            key_chunk_size=chunk, policy=jax.checkpoint_policies.nothing_saveable, dtype=jnp.float32, precision=None,
            prevent_cse=True)

        def part(q, k, v):
            return ringattention(q, k, v, None, None, None, "sp", True, settings)

        forward = shard_map(
            part, mesh=mesh, in_specs=(tokens_cut, tokens_cut, tokens_cut), out_specs=tokens_cut, check_rep=False)

        def both(q, k, v, d_out):
            out, pull = jax.vjp(forward, q, k, v)
            return (out, *pull(d_out))

        return jax.jit(forward), jax.jit(both)

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, tokens_cut))

    say(f"jax {jax.__version__}, ringattention 0.1.2, {len(jax.devices())} devices")
    for shape in options.shapes:
        batch, heads, tokens, size = (int(part) for part in shape.split(","))
        forward, both = ring(min(options.chunk, tokens // options.devices))
        keys = jax.random.split(jax.random.PRNGKey(0), 4)
        q, k, v, d_out = (place(jax.random.normal(key, (batch, tokens, heads, size))) for key in keys)
        forward_seconds = median_seconds(options.repetitions, lambda: forward(q, k, v).block_until_ready())
        both_seconds = median_seconds(
            options.repetitions, lambda: jax.block_until_ready(both(q, k, v, d_out)))
        flops = 4 * batch * heads * size * tokens * tokens / 2
        emit({
            "backend": "jax-ringattention", "batch": batch, "heads": heads, "kvHeads": heads, "tokens": tokens,
            "headSize": size, "mask": "causal", "dtype": "float32", "ranks": options.devices,
            "kernelSet": f"jax {jax.__version__}", "forwardSeconds": forward_seconds,
            "forwardBackwardSeconds": both_seconds, "forwardGFLOPS": flops / forward_seconds / 1e9,
            "forwardBackwardGFLOPS": 3.5 * flops / both_seconds / 1e9,
        })


if __name__ == "__main__":
    main()

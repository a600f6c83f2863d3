"""The same training step in NumPyro, jitted per step, with the same networks translated from torch."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from benchmarks.laws import Bernoulli, Gaussian, NegativeBinomial
from benchmarks.measure import Block, Missing
from benchmarks.networks import Log1p
from benchmarks.workloads import BATCH, Workload

_LR = 1e-3


def numpyro_svi(work: Workload) -> Block:
    """NumPyro's `SVI.update` under `jax.jit`, on rows that are resident as a JAX array.

    Raises:
        Missing: NumPyro is not installed, or the rows are on a GPU.
    """
    if work.rows.device.type != "cpu":
        raise Missing("NumPyro is compared on the CPU only")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    try:
        jax, numpyro = importlib.import_module("jax"), importlib.import_module("numpyro")
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed: `pip install numpyro`") from error
    svi = numpyro.infer.SVI(*_programs(work), numpyro.optim.Adam(_LR), numpyro.infer.TraceMeanField_ELBO())
    rows = jax.numpy.asarray(work.block_rows().numpy())
    state = svi.init(jax.random.PRNGKey(0), rows[:BATCH])
    update = jax.jit(svi.update)
    order = np.random.default_rng(0)

    def block() -> None:
        nonlocal state
        shuffled = rows[order.permutation(len(rows))]
        for start in range(0, len(rows), BATCH):
            state, _ = update(state, shuffled[start : start + BATCH])
        jax.block_until_ready(state)

    return block


def _programs(work: Workload) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    encode, encoder_weights = translated(work.encoder)
    decode, decoder_weights = translated(work.decoder)

    def law(out: Any, v: Any) -> Any:
        if isinstance(work.law, Gaussian):
            return dist.Normal(out, work.law.scale)
        if isinstance(work.law, Bernoulli):
            return dist.Bernoulli(logits=out)
        assert isinstance(work.law, NegativeBinomial)
        log_dispersion = numpyro.param("log_dispersion", jnp.asarray(work.decoder.log_dispersion.detach().numpy()))
        log_share = out - jnp.logaddexp.reduce(out, -1, keepdims=True)
        logits = log_share + jnp.log(v.sum(-1, keepdims=True)) - log_dispersion
        return dist.NegativeBinomialLogits(jnp.exp(log_dispersion), logits)

    def model(v: Any) -> None:
        weights = numpyro.param("decoder", decoder_weights)
        with numpyro.plate("data", len(v)):
            h = numpyro.sample("h", dist.Normal(jnp.zeros(work.latent), 1.0).to_event(1))
            numpyro.sample("v", law(decode(weights, h), v).to_event(1), obs=v)

    def guide(v: Any) -> None:
        weights = numpyro.param("encoder", encoder_weights)
        loc, log_scale = jnp.split(encode(weights, v), 2, -1)
        with numpyro.plate("data", len(v)):
            numpyro.sample("h", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide


def translated(network: nn.Module) -> tuple[Callable[[Any, Any], Any], list[Any]]:
    """A chain of torch layers as a JAX function of (weights, input), and its weights, axes (row, column) throughout."""
    import jax.numpy as jnp

    layers = list(getattr(network, "layers", network))
    weights = [tuple(jnp.asarray(p.detach().numpy()) for p in layer.parameters()) for layer in layers]

    def apply(weights: list[Any], x: Any) -> Any:
        for layer, own in zip(layers, weights, strict=True):
            x = _layer(layer, own, x)
        return x

    return apply, weights


def _layer(layer: nn.Module, weights: tuple[Any, ...], x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    if isinstance(layer, nn.Linear):
        return x @ weights[0].T + weights[1]
    if isinstance(layer, nn.Tanh):
        return jnp.tanh(x)
    if isinstance(layer, nn.ReLU):
        return jax.nn.relu(x)
    if isinstance(layer, Log1p):
        return jnp.log1p(x)
    if isinstance(layer, nn.Flatten):
        return x.reshape(len(x), -1)
    if isinstance(layer, nn.Unflatten):
        return x.reshape(*x.shape[:-1], *layer.unflattened_size)
    axes = ("NCHW", "OIHW", "NCHW")
    if isinstance(layer, nn.Conv2d):
        ends = [(p, p) for p in layer.padding]
        out = jax.lax.conv_general_dilated(x, weights[0], layer.stride, ends, dimension_numbers=axes)
    elif isinstance(layer, nn.ConvTranspose2d):
        # The transpose of a convolution: the input spread out by the stride, the kernel turned round.
        ends = [(k - 1 - p, k - 1 - p) for k, p in zip(layer.kernel_size, layer.padding, strict=True)]
        kernel = weights[0].swapaxes(0, 1)[:, :, ::-1, ::-1]
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), ends, lhs_dilation=layer.stride, dimension_numbers=axes)
    else:
        raise Missing(f"no translation of {type(layer).__name__} to JAX")
    return out + weights[1][None, :, None, None]

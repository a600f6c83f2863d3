"""`log_weights`: log p(v, h) - log q(h | v) of any pair, draw by draw and row by row."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.opening import one_set, opened
from pplvae.programs.reading import Program, log_weights_of


def log_weights(
    model: Program, guide: Program, rows: Any, *, particles: int = 1, seed: int = 0
) -> Float[Tensor, "particle row"]:
    """Importance weights of independent draws from the guide, in eval mode, without the data plate's scale.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one.
        particles: Monte Carlo draws per row. All of them are in memory at once.
        seed: names all noise: the same seed gives the same bits. A row's draws do not depend on the other rows.

    Returns:
        Log p(v_i, h_si) - log q(h_si | v_i) in nats, without gradients. Its mean over draws estimates the ELBO of each
        row; `logsumexp(0) - log(particles)` is the importance-weighted bound on log p(v_i).

    Raises:
        DataError: rows that cannot be used.
        ProgramError: a pair whose rows cannot be told apart.
    """
    if particles < 1:
        raise ValueError(f"`particles` must be at least 1, got {particles}.")
    tensors = one_set(rows).tensors
    with opened(model, guide, tensors, seed) as layout, torch.no_grad():
        batch = Batch.of(tensors)
        with in_users_words("pair of model and guide", tensors):
            if not layout.redrawn:
                return log_weights_of(model, guide, layout, batch.times(particles), (seed,))
            # A latent that belongs to all rows is drawn once in a run.
            runs = [log_weights_of(model, guide, layout, batch, (seed, k)) for k in range(particles)]
            return torch.cat(runs)

"""Annealed importance sampling by hand, as one would write it in torch without pplvae."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.workloads import Workload


class Chains(NamedTuple):
    """What an annealing run says."""

    log_evidence: Tensor  # log p(v) in nats, a lower bound in expectation; axes (row,)
    acceptance: float  # of all moves


def hand_annealing(work: Workload, *, particles: int, temperatures: int, leapfrog: int, step: float) -> Chains:
    """Hamiltonian annealing from the prior, by eager autograd: linear temperatures, one fixed step size.

    The gradient at the end of a move serves as that at the start of the next, so a move costs `leapfrog` gradients.

    Args:
        work: the model and its rows.
        particles: chains per row.
        temperatures: steps of the path.
        leapfrog: steps of a move.
        step: size of a leapfrog step, in units of h.
    """
    work = work.copy()
    for parameter in work.parameters():
        parameter.requires_grad_(False)

    def likelihood(h: Tensor) -> tuple[Tensor, Tensor]:
        h = h.detach().requires_grad_()
        value = work.law.log_prob(work.decoder, h, work.rows)
        (slope,) = torch.autograd.grad(value.sum(), h)
        return value.detach(), slope

    h = torch.randn(particles, len(work.rows), work.latent, device=work.rows.device)
    value, slope = likelihood(h)
    log_weights, acceptance = torch.zeros_like(value), []
    for t in range(1, temperatures + 1):
        log_weights += value / temperatures
        if t == temperatures:
            break
        heat = t / temperatures
        momentum = torch.randn_like(h)
        energy = heat * value - 0.5 * (h.square() + momentum.square()).sum(-1)
        new, new_value, new_slope = h, value, slope
        for _ in range(leapfrog):
            momentum = momentum + 0.5 * step * (heat * new_slope - new)
            new = new + step * momentum
            new_value, new_slope = likelihood(new)
            momentum = momentum + 0.5 * step * (heat * new_slope - new)
        gained = heat * new_value - 0.5 * (new.square() + momentum.square()).sum(-1) - energy
        accepted = torch.rand_like(gained).log() < gained
        h = torch.where(accepted.unsqueeze(-1), new, h)
        slope = torch.where(accepted.unsqueeze(-1), new_slope, slope)
        value = torch.where(accepted, new_value, value)
        acceptance.append(accepted.float().mean())
    return Chains(log_weights.logsumexp(0) - math.log(particles), float(torch.stack(acceptance).mean()))

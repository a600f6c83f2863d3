"""Rows of one pair, each with a guide of its own: draws, log-probabilities, where a search starts."""

from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.discrete import joint_states
from pplvae.programs.factorisations import nan_where_it_fails
from pplvae.programs.families import unconstrained
from pplvae.programs.latents import LatentSpace
from pplvae.programs.noise import Kind
from pplvae.programs.reading import Given, Layout, Program, log_model, run_guide
from pplvae.programs.shapes import Lambda
from pplvae.programs.sites import latents_of, sum_sites, values_of
from pplvae.programs.transforms import Parameter
from pplvae.programs.widening import wide_operations, widened
from pplvae.search.gaussian_form import GaussianForm
from pplvae.search.localise import Localise


class Start(NamedTuple):
    """Where a search starts.

    Attributes:
        offsets: of every row.
        held: names of those that stay there until the others have found their optimum.
    """

    offsets: Lambda
    held: tuple[str, ...] = ()


class LocalGuides:
    """A batch of rows of one pair, each with a guide of its own.

    Where lambda does not depend on what the guide draws, the encoder runs once, when the batch is made. Discrete
    latents with few states are summed over exactly; a latent that belongs to all rows and is no point is
    drawn afresh for every mirrored pair of draws.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows, at the number of draws of each evaluation.
    """

    def __init__(self, model: Program, guide: Program, layout: Layout, batch: Batch) -> None:
        self.batch = batch
        self._model = model
        self._guide = guide
        self._layout = layout
        self._states = joint_states(layout.states) if layout.states else {}
        count = max([1, *(len(site.values) for site in self._states.values())])
        # Where everything is summed over, one draw says it all.
        self._exact = bool(self._states) and set(self._states) == set(layout.axes) and not layout.redrawn
        particles = 1 if self._exact else 2 if layout.redrawn else batch.particles
        self._run_batch = batch.times(particles).repeated(count)
        self._given = {name: site.over(len(batch) * particles) for name, site in self._states.items()}
        if layout.fixed:
            self._guide = _repeated(self._run(self._guide))

    def elements(self) -> int:
        """How many latent numbers a row has in the largest site: noise is matched site by site."""
        sites = self._run(self._guide)
        size = max(sites[name]["value"].numel() for name in self._layout.axes)
        return size // (len(self.batch) * self._run_batch.copies)

    def rows_at_once(self, draws: int) -> int:
        """How many rows may go through the programs together with so many draws."""
        return rows_at_once(self.batch.tensors, draws, self._layout.observed)

    def zeros(self) -> Lambda:
        """Offsets at which every local guide is the amortised one."""
        found: Lambda = {}
        for key, parameter in self._read({}).items():
            lam = unconstrained(parameter)
            follows = [self._sizes[k] for k in self._layout.follows.get(key, ())]
            found[key] = lam.new_zeros(len(self.batch), *follows, *lam.shape[1:])
        return found

    def starts(self) -> list[Start]:
        """Zeros; and, where discrete latents are summed over, offsets at which their logits are zero.

        From an encoder that is sure of a wrong state the slope towards the right one vanishes, and so does that of
        whatever depends on a state that is improbable. So the logits are held there at first.
        """
        zeros = self.zeros()
        lam = self._read({})
        flat = {
            key: _towards_zero(self._by_state(key, unconstrained(lam[key])))
            for key in zeros
            if key.endswith(".logits") and key.removesuffix(".logits") in self._layout.states
        }
        return [Start(zeros), Start(zeros | flat, tuple(flat))] if flat else [Start(zeros)]

    def parameters(self, offsets: Lambda) -> dict[str, Float[Tensor, "row ..."]]:
        """Lambda of every row; where an earlier latent changes it, the mean over draws, or one for each state."""
        return {key: self._by_state(key, parameter.value) for key, parameter in self._read(offsets).items()}

    def lam(self) -> Lambda:
        """Lambda of every row in unconstrained space, as offsets are shaped."""
        return {key: self._by_state(key, unconstrained(parameter)) for key, parameter in self._read({}).items()}

    def gaussian_form(self) -> GaussianForm | None:
        """Lambda as that of a Gaussian over all latents of a row; None where it is not."""
        return GaussianForm.of(self._run(self._guide), self._layout)

    def log_weights(
        self,
        offsets: Lambda,
        address: tuple[int, ...],
        kind: Kind = "antithetic",
        *,
        stick_the_landing: bool = False,
    ) -> Float[Tensor, "particle row"]:
        """Log p(v_i, h_si) - log q(h_si; lambda_i) in nats; the same address gives the same noise at any offset.

        The second half of the draws mirrors the first. Where discrete latents are summed over, an entry is the mean
        over their states by q; where they are drawn, it carries the score-function gradient.
        """
        return self._draws(offsets, address, kind, stick_the_landing)[0]

    def evidence_weights(
        self, offsets: Lambda, address: tuple[int, ...], kind: Kind = "antithetic"
    ) -> Float[Tensor, "particle row"]:
        """Log of unbiased estimates of p(v_i), from the draws of `log_weights`; states are summed inside the log."""
        return self._draws(offsets, address, kind, False)[1]

    def in_both_widths(self, offsets: Lambda, address: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Log weights of shape (particle, row) as they are, and in float64 at the same draws.

        Twice the same where the numbers are of float64 anyway, and where a program cannot be run in it.
        """
        moving = Localise(offsets, self._layout, self._run_batch.copies)
        kind: Kind = "independent" if self._exact else "antithetic"

        def log_weights(given: dict[str, Tensor]) -> tuple[dict[str, Any], Tensor]:
            sites, log_q, log_p = self._log_densities(moving, address, kind, given)
            return values_of(sites), widened(log_p - log_q).unflatten(0, (-1, len(self.batch)))

        drawn, narrow = nan_where_it_fails(lambda: log_weights(self._given))
        if self._layout.redrawn or all(offset.dtype != torch.float32 for offset in offsets.values()):
            return narrow, narrow
        try:
            with wide_operations():
                return narrow, nan_where_it_fails(lambda: log_weights(drawn))[1]
        except Exception:  # of a stranger's program, which need not run in float64
            return narrow, narrow

    def space(self, offsets: Lambda) -> LatentSpace:
        """The latents as vectors, under the guides at these offsets.

        Raises:
            ProgramError: latents that no vector of real numbers holds; see `LatentSpace`.
        """
        if self._layout.discrete:
            raise ProgramError(
                f"The latents {list(self._layout.discrete)} of the guide are discrete: annealing, richer families and "
                'posterior means move real numbers. Use `evidence="importance"`, or leave them to the model.'
            )
        localised = Localise(offsets, self._layout, self.batch.particles)(self._guide)
        return LatentSpace(self._model, localised, self._layout, self.batch)

    def _draws(
        self, offsets: Lambda, address: tuple[int, ...], kind: Kind, stick_the_landing: bool
    ) -> tuple[Tensor, Tensor]:
        moving = Localise(offsets, self._layout, self._run_batch.copies, stick_the_landing=stick_the_landing)
        if self._exact:
            elbo, evidence = self._one_run(moving, address, "independent")
            return elbo.expand(self.batch.particles, -1), evidence.expand(self.batch.particles, -1)
        if not self._layout.redrawn:
            return self._one_run(moving, address, kind)
        runs = [self._one_run(moving, (*address, k), "antithetic") for k in range(self.batch.particles // 2)]
        elbo, evidence = (torch.stack(draws, 1).flatten(0, 1) for draws in zip(*runs, strict=True))
        return elbo, evidence

    def _one_run(self, moving: Localise, address: tuple[int, ...], kind: Kind) -> tuple[Tensor, Tensor]:
        batch, layout = self._run_batch, self._layout
        # A step may leave one row a covariance that has no Cholesky factor.
        sites, log_q, log_p = nan_where_it_fails(lambda: self._log_densities(moving, address, kind, self._given))
        weights = (log_p - log_q).unflatten(0, (batch.repeats, batch.particles, len(batch)))
        if not layout.discrete:
            return weights[0], weights[0]
        dims = {name: layout.guide[name] for name in layout.discrete}
        log_discrete = sum_sites(sites, dims).reshape(weights.shape)
        if self._states:
            # A state that q excludes has log weight +inf and counts for nothing.
            weights = torch.where(log_discrete.isneginf(), 0.0, weights)
            return (log_discrete.exp() * weights).sum(0), (log_discrete + weights).logsumexp(0)
        weights = weights[0] + _score(weights[0].detach(), log_discrete[0])
        return weights, weights

    def _log_densities(
        self, moving: Localise, address: tuple[int, ...], kind: Kind, given: dict[str, Tensor]
    ) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Sites of the guide, log q and log p of tiled rows; what is given is not drawn."""
        with Given(given):
            sites = run_guide(moving(self._guide), self._run_batch, self._layout.guide, address, kind)
        log_p, _ = log_model(self._model, self._run_batch, values_of(sites), self._layout)
        return sites, sum_sites(sites, self._layout.guide, moving.cut), log_p

    def _read(self, offsets: Lambda) -> dict[str, Parameter]:
        """Each free parameter at these offsets, its axis of tiled rows first."""
        found: dict[str, Parameter] = {}

        class Read(Localise):
            def _move(self, key: str, parameter: Parameter, *, cut: bool = False) -> Tensor:
                moved = super()._move(key, parameter, cut=cut)
                if key in self._layout.free:
                    value = moved.movedim(parameter.axis, 0)
                    found[key] = parameter._replace(value=value, axis=-value.ndim)
                return moved

        self._run(Read(offsets, self._layout, self._run_batch.copies)(self._guide))
        return found

    @property
    def _sizes(self) -> list[int]:
        return [len(states.values) for states in self._layout.states.values()]

    def _by_state(self, key: str, lam: Float[Tensor, "batch ..."]) -> Float[Tensor, "row ..."]:
        """Lambda of tiled rows as their offsets are shaped, averaged over what it does not follow."""
        follows = self._layout.follows.get(key, ())
        grid = lam.reshape(*self._sizes, -1, len(self.batch), *lam.shape[1:])
        averaged = [axis for axis in range(len(self._sizes) + 1) if axis not in follows]
        return grid.mean(averaged).movedim(len(follows), 0)

    def _run(self, guide: Program) -> dict[str, Any]:
        with torch.no_grad():
            return run_guide(guide, self._run_batch, self._layout.guide, (0,))


def _repeated(sites: dict[str, Any]) -> Program:
    """A guide that says what has been read of another."""

    def guide(*_: Any) -> None:
        for name, site in latents_of(sites).items():
            fn = site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])
            pyro.sample(name, fn, infer=site["infer"])

    return guide


def _towards_zero(logits: Tensor) -> Tensor:
    """Offsets that make all logits zero, except those of states that are excluded."""
    return torch.where(logits.isinf(), 0.0, -logits)


def _score(
    weights: Float[Tensor, "particle row"], log_q: Float[Tensor, "particle row"]
) -> Float[Tensor, "particle row"]:
    """Zeros whose gradient is that of drawing from q: the score function with a leave-one-out baseline.

    The baseline of a draw is the mean over all others but its mirror image, on which it depends.

    References:
        Buy 4 REINFORCE samples, get a baseline for free (Kool et al., 2019).
    """
    pairs = weights.unflatten(0, (2, -1)).sum(0)
    others = max(1, len(pairs) - 1)
    baseline = ((pairs.sum(0) - pairs) / (2 * others)).repeat(2, 1)
    return (weights - baseline) * (log_q - log_q.detach())

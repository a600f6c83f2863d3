"""How a program says that a guide has a family: one entry for each, of lines that a user would write."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Latent:
    """A family of q(h; λ_φ(v)), in lines of a program.

    Attributes:
        outputs: how many numbers the encoder gives, an expression in `latent`.
        before: lines that make λ of them.
        law: the distribution, an expression.
        why: in a sentence that begins with its name.
        parameters: lines of the constructor, beyond the encoder.
        objective: what it is fitted with.
    """

    outputs: str
    before: tuple[str, ...]
    law: str
    why: str
    parameters: tuple[str, ...] = ()
    objective: str = "Trace_ELBO"


_SCALE = "0.001 + F.softplus(free_scale)"

LATENT = {
    "factorised-gaussian": Latent(
        "2 * latent",
        ("loc, free_scale = self.encoder(seen).chunk(2, -1)",),
        f"dist.Normal(loc, {_SCALE}).to_event(1)",
        "the simplest, and the fastest to search. The gap report says what a richer family would win",
        objective="TraceMeanField_ELBO",
    ),
    "full-covariance": Latent(
        "(2 + latent) * latent",
        (
            "free = self.encoder(seen)",
            "loc, free_scale, below = free.split([self.latent, self.latent, self.latent**2], -1)",
            "below = below.unflatten(-1, (self.latent, self.latent)).tril(-1)",
        ),
        f"dist.MultivariateNormal(loc, scale_tril=below + torch.diag_embed({_SCALE}))",
        "latents may be correlated",
    ),
    "low-rank": Latent(
        "4 * latent",
        (
            "loc, free_scale, factor = self.encoder(seen).split([self.latent, self.latent, 2 * self.latent], -1)",
            "factor = factor.unflatten(-1, (self.latent, 2))",
        ),
        f"dist.LowRankMultivariateNormal(loc, factor, {_SCALE})",
        "latents may be correlated along two directions, which costs less than along all",
    ),
    "mixture": Latent(
        "3 * (2 * latent + 1)",
        (
            "free = self.encoder(seen).unflatten(-1, (3, -1))",
            "loc, free_scale, logits = free.split([self.latent, self.latent, 1], -1)",
        ),
        f"dist.MixtureOfDiagNormals(loc, {_SCALE}, logits.squeeze(-1))",
        "three modes for each row",
    ),
    "flow": Latent(
        "3 * latent",
        (
            "loc, free_scale, context = self.encoder(seen).chunk(3, -1)",
            f"base = dist.Normal(loc, {_SCALE})",
        ),
        "dist.TransformedDistribution(base, [self.flow.condition(context)])",
        "the draws of a factorised Gaussian, bent by an autoregressive flow that each row conditions",
        ("self.flow = transforms.conditional_affine_autoregressive(latent, context_dim=latent)",),
    ),
}

"""A VAE of v given a context c: labels, covariates, batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import DataError, ShapeError
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.parts import Decoder
from pplvae.priors import StandardNormal


class ConditionalVAE(nn.Module):
    """p(v, h | c; θ) = p(h) p(v | h, c), with q(h; λ_φ(v, c)). A row is (v, c); c is given, not modelled.

    Args:
        visible: columns of v.
        context: columns of c.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: p(v | h, c), one of `likelihoods.LIKELIHOODS` or an object.
        conditional_prior: a factorised Gaussian p(h | c) made by a network, in place of the standard normal p(h).

    References:
        Learning structured output representation using deep conditional generative models (Sohn, Lee and Yan, 2015).

    >>> cvae = ConditionalVAE(visible=64, context=3, latent=2)
    >>> cvae.generate(one_hot(["a", "c"], classes=["a", "b", "c"])).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        visible: int,
        context: int,
        latent: int,
        hidden: Sequence[int] = (128,),
        *,
        likelihood: str | Likelihood = "bernoulli",
        conditional_prior: bool = False,
    ) -> None:
        super().__init__()
        self.visible, self.context = visible, context
        self.decoder = Decoder(latent + context, hidden, visible, likelihood)
        self.prior = StandardNormal(latent)
        self.conditional_prior = FactorisedGaussian(context, latent, list(hidden)[::-1]) if conditional_prior else None
        self.family = FactorisedGaussian(self.decoder.features + context, latent, hidden)

    def model(self, v: Tensor, c: Tensor, total: Tensor | None = None) -> None:
        """p(v, h | c; θ), rows on plate "data", latent site "h", observed site "v"."""
        check_columns(v, self.visible)
        c = self._checked(c)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior_of(c))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self.given(h, c, self.decoder.total(v, total)), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor, c: Tensor, total: Tensor | None = None) -> None:
        """q(h; λ_φ(v, c)), rows on plate "data", latent site "h"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        seen = torch.cat([self.decoder.likelihood.features(v), self._checked(c)], -1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.family(seen))

    def prior_of(self, c: Float[Tensor, "row context"]) -> Distribution:
        """p(h | c) with batch shape (row,); the same for all rows unless the prior is conditional."""
        if self.conditional_prior is not None:
            return self.conditional_prior(c)
        return self.prior(c).expand(c.shape[:1])

    def given(
        self, h: Float[Tensor, "row latent"], c: Float[Tensor, "row context"], total: Tensor | None = None
    ) -> Distribution:
        """p(v | h, c), of rows with these totals where the likelihood is one of counts."""
        return self.decoder(torch.cat([h, c], -1), total)

    def generate(self, c: Tensor, total: Tensor | None = None) -> Float[Tensor, "row column"]:
        """Draw a row from p(v | c) for each row of c, of shape (row, context); counts for totals of shape (row, 1)."""
        c = self._checked(c)
        return self.given(self.prior_of(c).sample(), c, total).sample()

    def _checked(self, c: Tensor) -> Float[Tensor, "row context"]:
        """The context where and as the networks are: one-hot labels are often integers on the CPU."""
        if c.ndim != 2 or c.shape[1] != self.context:
            raise ShapeError(
                f"The context must have shape (row, {self.context}), as the model was built for, got {tuple(c.shape)}. "
                "Make it of labels with `one_hot(labels)`, or build the model with another `context=`."
            )
        return c.to(next(self.parameters()))


def one_hot(labels: Any, classes: Sequence[Any] | None = None) -> Float[Tensor, "row class"]:
    """Labels as a context: one column per class, 1 where the label is that class; of torch's default dtype.

    Args:
        labels: numbers or strings, one per row.
        classes: in the order of the columns; by default those that occur, sorted. Held-out rows need those of the
            training rows.

    Raises:
        ShapeError: labels that are not one per row.
        DataError: a label that is none of the classes, or a class that is there twice.

    >>> one_hot(["b", "a", "b"])
    tensor([[0., 1.],
            [1., 0.],
            [0., 1.]])
    """
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1:
        raise ShapeError(f"The labels must be one per row, shape (row,), got {values.shape}.")
    columns = np.unique(values) if classes is None else np.asarray(classes)
    if len(np.unique(columns)) < len(columns):
        raise DataError(f"Some of the classes {columns.tolist()} occur twice.")
    found = values[:, None] == columns
    unknown = np.unique(values[~found.any(1)])
    if len(unknown):
        raise DataError(f"The labels {unknown.tolist()} are none of the classes {columns.tolist()}.")
    return torch.as_tensor(found, dtype=torch.get_default_dtype())

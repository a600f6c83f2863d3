"""Every figure. Each function returns a matplotlib Figure of its own: pyplot's global state is not touched."""

from pplvae.plots.gaps import decomposition, elbo_scatter, gap_histogram, learning_curves, picture_grid

__all__ = ["decomposition", "elbo_scatter", "gap_histogram", "learning_curves", "picture_grid"]

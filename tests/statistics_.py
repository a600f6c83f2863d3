"""Tolerances in standard errors, derived and not tuned.

So wide that all comparisons of the suite together raise a false alarm in fewer than one of 1e5 runs. A bias that is
known is written down where it is allowed for, in nats, on the side on which it lies.
"""

import numpy as np
from scipy import stats

COMPARISONS = 5000  # numbers that one run of the suite compares in this way, at most
LEVEL = 1e-5 / COMPARISONS  # probability of a false alarm of one of them, both sides together
SEARCH = 0.01  # nats that the search may leave by default: `tolerance`


def standard_errors(degrees=np.inf):
    """How many on either side; more where these are themselves estimated, from `degrees` + 1 independent draws."""
    return stats.t.isf(LEVEL / 2, degrees) if np.isfinite(degrees) else stats.norm.isf(LEVEL / 2)


def assert_within(error, stderr, *, low=0.0, high=0.0, degrees=np.inf, what=""):
    """Errors lie where a bias between `low` and `high`, and noise of these standard errors, can have brought them."""
    error, reach = np.atleast_1d(error), standard_errors(degrees) * np.asarray(stderr)
    outside = ~((error >= low - reach) & (error <= high + reach))  # NaN lies outside
    allowed = np.broadcast_to(reach, error.shape)[outside]
    assert not outside.any(), f"{what}: {error[outside]} lie beyond [{low}, {high}] by more than {allowed}"


def of_mean(stderr):
    """Standard error of the mean of independent rows with these."""
    stderr = np.ravel(stderr)
    return np.sqrt((stderr**2).sum()) / len(stderr)


def assert_spread_is_one(scores, *, degrees=np.inf, what=""):
    """Errors in units of their standard errors have spread 1.

    Args:
        scores: independent of each other.
        degrees: independent draws behind a standard error, less one: scores are then spread like Student's t.
        what: names them.
    """
    scores = np.ravel(scores)
    inflated, excess = (degrees / (degrees - 2), 6 / (degrees - 4)) if np.isfinite(degrees) else (1.0, 0.0)
    free = (len(scores) - 1) / (1 + excess / 2)  # of chi-square: heavy tails make a spread less certain
    least, most = (np.sqrt(inflated * stats.chi2.ppf(p, free) / free) for p in (LEVEL / 2, 1 - LEVEL / 2))
    spread = np.sqrt((scores**2).mean())
    assert least < spread < most, f"{what}: scores are spread by {spread}, beyond [{least}, {most}]"


def assert_frequency(hits, draws, low, high=None, *, what=""):
    """So many hits in so many draws, where one has a probability of `low`, or one between `low` and `high`."""
    hits, low = np.atleast_1d(hits), np.asarray(low)
    few, many = stats.binom.cdf(hits, draws, low), stats.binom.sf(hits - 1, draws, low if high is None else high)
    outside = ~((few > LEVEL / 2) & (many > LEVEL / 2))
    assert not outside.any(), f"{what}: {hits[outside]} hits in {draws} draws are no chance at {low}, {high}"


def assert_chi_square(sums, degrees, *, what=""):
    """Sums of the squares of so many independent standard normals."""
    sums, degrees = np.broadcast_arrays(np.atleast_1d(sums), degrees)
    outside = ~((stats.chi2.cdf(sums, degrees) > LEVEL / 2) & (stats.chi2.sf(sums, degrees) > LEVEL / 2))
    assert not outside.any(), f"{what}: {sums[outside]} are no sums of {degrees[outside]} squares"

"""Variational Bayesian matrix factorisation: how many singular values of a noisy matrix are more than noise.

The analytic global solution of the fully observed case (Nakajima, Sugiyama, Babacan and Tomioka, "Global analytic
solution of fully-observed variational Bayesian matrix factorization", JMLR 14, 2013), with empirical Bayes: the
variances of the priors are estimated, and so is that of the noise. Symbols are the paper's.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

_GRID = 1000  # Noise variances that are tried before the best is refined; the free energy has several minima.


class Factorisation(NamedTuple):
    """A matrix of low rank.

    Attributes:
        left: [rows, rank], orthonormal columns.
        values: shrunken singular values [rank], descending.
        right: [rank, columns], orthonormal rows.
        noise_variance: of each value of the matrix that was factorised.
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray
    noise_variance: float

    @property
    def rank(self) -> int:
        """The number of singular values that are not noise."""
        return len(self.values)


def factorise(matrix: np.ndarray) -> Factorisation:
    """Finds the matrix of low rank that a noisy one is most likely to have come from.

    Args:
        matrix: [rows, columns].

    Returns:
        Its factors; of a matrix of zeros, and of mere noise, those of rank 0.
    """
    left, gammas, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    small, large = sorted(matrix.shape)  # L and M
    if not gammas.any():
        return Factorisation(left[:, :0], gammas[:0], right[:0], 0.0)
    alpha = small / large
    smallest = _smallest_tau(alpha)
    threshold = (1 + smallest) * (1 + alpha / smallest)  # of γ² / (M σ²)
    variance = _noise_variance(gammas**2 / large, alpha, threshold)
    scaled = gammas**2 / (large * variance)
    rank = int(np.sum(scaled > threshold))
    rest = 1 - (1 + alpha) / scaled[:rank]
    values = gammas[:rank] / 2 * (rest + np.sqrt(rest**2 - 4 * alpha / scaled[:rank] ** 2))
    return Factorisation(left[:, :rank], values, right[:rank], variance)


def _smallest_tau(alpha: float) -> float:
    """The zero of Φ(τ) + Φ(τ/α), Φ(z) = log(z + 1) / z - 1/2; that of Φ alone is 2.5129."""

    def phi(z: float) -> float:
        return np.log1p(z) / z - 0.5

    return optimize.brentq(lambda tau: phi(tau) + phi(tau / alpha), 2.51 * alpha, 2.52)


def _noise_variance(powers: np.ndarray, alpha: float, threshold: float) -> float:
    """The noise variance σ² of the least free energy, from γ²/M, descending."""

    def free_energy(variance: np.ndarray) -> np.ndarray:
        x = powers / variance[..., None]
        excess = np.maximum(x, threshold) - (1 + alpha)  # Below the threshold it does not count.
        tau = (excess + np.sqrt(excess**2 - 4 * alpha)) / 2
        gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
        return np.sum(x - np.log(x) + np.where(x > threshold, gain, 0), -1)

    powers = np.maximum(powers, 1e-24 * powers[0])
    most = min(int(np.ceil(len(powers) / (1 + alpha))) - 1, len(powers) - 1)  # Values over the threshold at most.
    least = max(powers[most] / threshold, powers[most:].mean())
    grid = np.geomspace(least, max(least, powers.mean()), _GRID)
    best = int(np.argmin(free_energy(grid)))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    found = optimize.minimize_scalar(
        lambda log: float(free_energy(np.exp(log))), bounds=np.log(bounds), method="bounded"
    )
    return float(min(np.exp(found.x), grid[best], key=lambda variance: float(free_energy(np.asarray(variance)))))

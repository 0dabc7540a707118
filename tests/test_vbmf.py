"""Variational Bayesian matrix factorisation: the rank of planted matrices, and what the paper says of the solution."""

import numpy as np
import pytest

import vbmf


def planted(rows, columns, rank, noise, seed=0):
    """A matrix of a rank, with singular values around sqrt(rows · columns), and noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)), noise * rng.normal(size=(rows, columns))


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(16, 256, 3), (64, 64, 5), (64, 1024, 20), (300, 40, 7)])
def test_finds_a_planted_rank_and_the_noise(rows, columns, rank, noise):
    signal, added = planted(rows, columns, rank, noise)

    found = vbmf.factorise(signal + added)

    assert found.rank == rank
    assert found.noise_variance == pytest.approx(noise**2, rel=0.15)
    rebuilt = found.left * found.values @ found.right
    assert np.linalg.norm(rebuilt - signal) < np.linalg.norm(added) / 1.3  # The noise outside of the factors is gone.


@pytest.mark.parametrize("shape", [(16, 256), (64, 64), (100, 30), (128, 2048)])
@pytest.mark.parametrize("seed", range(5))
def test_finds_nothing_in_noise(shape, seed):
    noise = 3 * np.random.default_rng(seed).normal(size=shape)

    found = vbmf.factorise(noise)

    assert found.rank == 0
    assert found.noise_variance == pytest.approx(np.mean(noise**2))


def test_a_weak_component_is_noise():
    """Under sqrt(M + L + (2.5 + 1 / 2.5) sqrt(M L)) · σ, about, a component is not told from noise."""
    rng = np.random.default_rng(0)
    left, right = (vector / np.linalg.norm(vector) for vector in (rng.normal(size=(64, 1)), rng.normal(size=(1, 256))))
    noise = rng.normal(size=(64, 256))

    ranks = [vbmf.factorise(strength * left @ right + noise).rank for strength in (10, 40)]

    assert ranks == [0, 1]


def test_transposed_and_scaled_input_give_the_same():
    matrix = sum(planted(48, 200, 6, 0.3))

    plain, turned, scaled = (vbmf.factorise(other) for other in (matrix, matrix.T, 1e-3 * matrix))

    assert plain.rank == turned.rank == scaled.rank == 6
    np.testing.assert_allclose(turned.values, plain.values, rtol=1e-6)
    np.testing.assert_allclose(scaled.values, 1e-3 * plain.values, rtol=1e-6)
    assert scaled.noise_variance == pytest.approx(1e-6 * plain.noise_variance, rel=1e-5)


def test_values_are_shrunken_by_the_formula():
    """γ̂ = γ/2 · (1 - (L+M)σ²/γ² + sqrt((1 - (L+M)σ²/γ²)² - 4LMσ⁴/γ⁴)), with L = 20, M = 90."""
    matrix = sum(planted(20, 90, 4, 0.4))

    found = vbmf.factorise(matrix)

    gamma = np.linalg.svd(matrix)[1][:4]
    part = 1 - 110 * found.noise_variance / gamma**2
    wanted = gamma / 2 * (part + np.sqrt(part**2 - 4 * 20 * 90 * found.noise_variance**2 / gamma**4))
    np.testing.assert_allclose(found.values, wanted, rtol=1e-9)


def test_matrices_without_noise():
    assert vbmf.factorise(np.zeros((5, 8))).rank == 0
    signal, _ = planted(30, 50, 4, 0)
    found = vbmf.factorise(signal)
    assert found.rank == 4
    np.testing.assert_allclose(found.left * found.values @ found.right, signal, atol=1e-6)

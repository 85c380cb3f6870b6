"""The four paths of any convolution, axis by axis, against matrices of ``C``, ``P`` and ``U``.

An axis of a convolution is a matrix ``C`` (outputs x inputs); ``P`` and ``U`` are matrices too. Every path is a
recipe (pool, taps, upsample), which is another product of matrices: the two products must be the same.
"""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from octify.kernels.convolution import path
from octify.kernels.taps import PATHS, Axis, Path, PathName, Scheme

# Kernels are of order 1 and a row sums fewer than 32 of them: rounding is below 32 * 1e-16.
ROUNDING = 1e-13
# Fitted coefficients are rounded to 11 decimals; a row of P C U has at most 2 * 7 of them.
FITTED = 1e-9
# One axis is cheap: look at more examples than elsewhere.
many = settings(max_examples=max(100, settings.default.max_examples))


def P(n: int) -> np.ndarray:
    """Means of pairs; a last odd sample stands for itself."""
    matrix = np.kron(np.eye((n + 1) // 2), [[0.5, 0.5]])[:, :n]
    return matrix / matrix.sum(axis=1, keepdims=True)


def U(n: int) -> np.ndarray:
    return np.kron(np.eye(n // 2), [[1.0], [1.0]])


def C(axis: Axis, taps: np.ndarray, n: int) -> np.ndarray:
    """The convolution of ``n`` samples, zero outside."""
    matrix = np.zeros((axis.output_length(n), n))
    for i in range(len(matrix)):
        for m, tap in enumerate(taps):
            place = axis.stride * i - axis.pad_left + axis.dilation * m
            if 0 <= place < n:
                matrix[i, place] += tap
    return matrix


def wanted(name: PathName, axis: Axis, taps: np.ndarray, n: int) -> np.ndarray:
    """``C``, ``C U``, ``P C`` or ``P C U``."""
    matrix = C(axis, taps, n)
    source, target = name.split("_to_")
    if not axis.octave:
        return matrix
    matrix = matrix @ U(n) if source == "low" else matrix
    return P(len(matrix)) @ matrix if target == "low" else matrix


def done(recipe: Path, name: PathName, a: int, axis: Axis, taps: np.ndarray, n: int) -> np.ndarray:
    """What the recipe computes along its axis ``a``, as a matrix."""
    source, target = name.split("_to_")
    half = 2 if axis.octave else 1
    given_length = n // half if source == "low" else n
    length = axis.output_length(n) // (half if target == "low" or recipe.after == "up" else 1)
    new = recipe.matrices[a] @ taps
    before = np.eye(given_length)
    if axis.octave and recipe.before:
        before = P(given_length) if recipe.before == "pool" else U(2 * given_length)
    matrix = np.zeros((length, len(before)))
    for m, tap in enumerate(new):
        for i in range(length):
            if recipe.transposed:
                place, odd = divmod(i - recipe.starts[a] - m, 2)
                if odd:
                    continue
            else:
                place = recipe.strides[a] * i + recipe.starts[a] + recipe.dilations[a] * m
            if 0 <= place < len(before):
                matrix[i, place] += tap
    after = U(2 * length) if axis.octave and recipe.after == "up" else np.eye(length)
    return after @ matrix @ before


@st.composite
def axes(draw: st.DrawFn, max_taps: int = 7, max_stride: int = 4) -> tuple[Axis, int]:
    """Any axis, and an even input length at which its output is even too."""
    taps = draw(st.integers(1, max_taps))
    stride = draw(st.integers(1, max_stride))
    dilation = draw(st.integers(1, 4))
    reach = dilation * (taps - 1)
    left, right = draw(st.integers(0, reach + 1)), draw(st.integers(0, reach + 1))
    n = 2 * draw(st.integers(1, 12))
    n += 2 * max(0, -((n + left + right - reach - stride - 1) // 2))  # long enough for two outputs
    if Axis(taps, stride, left, right, dilation).output_length(n) % 2:
        right += stride
    axis = Axis(taps, stride, left, right, dilation)
    assert n % 2 == 0 and axis.output_length(n) % 2 == 0 and axis.output_length(n) >= 2
    return axis, n


def kernel(axis: Axis, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(axis.taps)


# One row per path and stride: before, after, transposed, left padding, stride, then the new taps as
# combinations of (k[-1], k[0], k[1]).
HALF = F(1, 2)
TABLE = {
    ("low_to_low", 1): (
        ("", "", False, 1, 1),
        [(HALF, 0, 0), (HALF, 1, HALF), (0, 0, HALF)],
    ),
    ("low_to_low", 2): (
        ("", "", False, 1, 2),
        [(HALF, 0, 0), (HALF, HALF, HALF), (0, HALF, HALF)],
    ),
    # A transposed convolution stores its taps the other way round: tap m of input i lands on 2 i - 1 + m.
    ("low_to_high", 1): (
        ("", "", True, 1, 2),
        [(0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0)],
    ),
    ("low_to_high", 2): (
        ("", "", False, 1, 1),
        [(1, 0, 0), (0, 1, 1)],
    ),
    ("high_to_low", 1): (
        ("", "", False, 1, 2),
        [(HALF, 0, 0), (HALF, HALF, 0), (0, HALF, HALF), (0, 0, HALF)],
    ),
    ("high_to_low", 2): (
        ("", "", False, 1, 4),
        [(HALF, 0, 0), (0, HALF, 0), (HALF, 0, HALF), (0, HALF, 0), (0, 0, HALF)],
    ),
}


@pytest.mark.parametrize(("name", "stride"), TABLE)
def test_table_of_three_taps(name: PathName, stride: int) -> None:
    """The table of docs/mathematics.md, coefficient by coefficient."""
    (before, after, transposed, padding, step), rows = TABLE[name, stride]
    recipe = path(name, (Axis(3, stride, 1, 1),), "exact")
    assert (recipe.before, recipe.after, recipe.transposed) == (before, after, transposed)
    assert (-recipe.starts[0], recipe.strides[0]) == (padding, step)
    assert recipe.dilations == (1,) or transposed
    assert recipe.matrices[0].tolist() == [[float(c) for c in row] for row in rows]


@pytest.mark.parametrize("scheme", ["paper", "exact"])
@pytest.mark.parametrize("stride", [1, 2])
def test_low_to_low_is_a_congruence(scheme: Scheme, stride: int) -> None:
    """``K' = A K A^T``: in two dimensions the path is the matrix of one axis, twice."""
    matrices = path("low_to_low", (Axis(3, stride, 1, 1),) * 2, scheme).matrices
    assert np.array_equal(matrices[0], matrices[1])
    if stride == 1:
        assert matrices[0].tolist() == [[0.5, 0, 0], [0.5, 1, 0.5], [0, 0, 0.5]]


@many
@given(axes(), st.sampled_from(PATHS), st.integers(0, 99))
def test_exact_paths_are_the_products_of_the_operators(
    drawn: tuple[Axis, int], name: PathName, seed: int
) -> None:
    axis, n = drawn
    taps = kernel(axis, seed)
    recipe = path(name, (axis,), "exact")
    np.testing.assert_allclose(
        done(recipe, name, 0, axis, taps, n), wanted(name, axis, taps, n), rtol=0, atol=ROUNDING
    )


@many
@given(
    st.lists(axes(5, 3), min_size=2, max_size=3),
    st.booleans(),
    st.sampled_from(PATHS),
    st.sampled_from(["exact", "paper"]),
)
def test_axes_of_different_kinds_share_one_recipe(
    drawn: list[tuple[Axis, int]], time: bool, name: PathName, scheme: Scheme
) -> None:
    """Pooling and upsampling are done along all halved axes or none; the time axis of a video never halves."""
    whole = tuple(axis for axis, _ in drawn)
    if time or len(whole) == 3:
        first = whole[0]
        whole = (
            Axis(first.taps, first.stride, first.pad_left, first.pad_right, first.dilation, False),
            *whole[1:],
        )
    recipe = path(name, whole, scheme)
    for a, (axis, (_, n)) in enumerate(zip(whole, drawn, strict=True)):
        taps = kernel(axis, a)
        have = done(recipe, name, a, axis, taps, n)
        want = wanted(name, axis, taps, n)
        assert have.shape == want.shape
        if scheme == "exact" or not axis.octave:
            np.testing.assert_allclose(have, want, rtol=0, atol=ROUNDING)


def test_gift_large_kernels_need_fewer_taps() -> None:
    assert path("low_to_low", (Axis(5, 1, 2, 2),), "exact").kernel_size == (3,)
    assert path("low_to_low", (Axis(7, 1, 3, 3),), "exact").kernel_size == (5,)


@many
@given(st.integers(1, 7), st.sampled_from([2, 4, 6]), st.data())
def test_gift_even_dilation_commutes(taps: int, dilation: int, data: st.DataObject) -> None:
    """Taps on even offsets read one sample of every pair: every path is the kernel itself, at low resolution."""
    padding = 2 * data.draw(st.integers(0, dilation * (taps - 1) // 2))
    axis = Axis(taps, 1, padding, padding, dilation)
    for name in PATHS[1:]:
        for scheme in ("exact", "paper"):
            recipe = path(name, (axis,), scheme)
            assert np.array_equal(recipe.matrices[0], np.eye(taps)), (name, scheme)
            assert recipe.dilations == (dilation // 2,) or taps == 1
            assert (recipe.before, recipe.after) == {
                "high_to_low": ("pool", ""),
                "low_to_high": ("", "up"),
                "low_to_low": ("", ""),
            }[name]


@pytest.mark.parametrize("name", PATHS[1:])
@pytest.mark.parametrize("scheme", ["paper", "exact"])
def test_gift_pointwise_convolutions_commute(name: PathName, scheme: Scheme) -> None:
    recipe = path(name, (Axis(1),) * 2, scheme)
    assert all(np.array_equal(matrix, [[1.0]]) for matrix in recipe.matrices)
    assert not recipe.transposed and recipe.strides == (1, 1) and recipe.starts == (0, 0)
    assert (recipe.before, recipe.after) == (
        "pool" if name == "high_to_low" else "",
        "up" if name == "low_to_high" else "",
    )


@many
@given(axes(), st.sampled_from(PATHS))
def test_paper_paths_keep_the_kernel_size_and_the_parameters(drawn: tuple[Axis, int], name: PathName) -> None:
    axis, n = drawn
    recipe = path(name, (axis, axis), "paper")
    assert recipe.kernel_size == (axis.taps, axis.taps)
    assert not recipe.transposed
    have = done(recipe, name, 0, axis, kernel(axis), n)
    assert have.shape == wanted(name, axis, kernel(axis), n).shape


@many
@given(st.sampled_from([(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0)]), st.integers(2, 9), st.integers(0, 99))
def test_paper_low_to_low_is_exact_where_it_fits(
    geometry: tuple[int, int, int], half: int, seed: int
) -> None:
    taps, stride, padding = geometry
    axis = Axis(taps, stride, padding, padding)
    n = 2 * stride * half
    recipe = path("low_to_low", (axis,), "paper")
    k = kernel(axis, seed)
    np.testing.assert_allclose(
        done(recipe, "low_to_low", 0, axis, k, n), wanted("low_to_low", axis, k, n), rtol=0, atol=FITTED
    )


@many
@given(axes(), st.integers(0, 99))
def test_paper_is_exact_wherever_the_exact_taps_fit(drawn: tuple[Axis, int], seed: int) -> None:
    """If ``P C U`` needs no more taps than the kernel has, on a grid that is tried, nothing is lost."""
    axis, n = drawn
    exact = path("low_to_low", (axis,), "exact")
    grids = {max(1, axis.dilation // 2), max(1, (axis.dilation + 1) // 2), axis.dilation}
    assume(not exact.before and exact.kernel_size[0] <= axis.taps and exact.dilations[0] in grids)
    recipe = path("low_to_low", (axis,), "paper")
    k = kernel(axis, seed)
    np.testing.assert_allclose(
        done(recipe, "low_to_low", 0, axis, k, n), wanted("low_to_low", axis, k, n), rtol=0, atol=FITTED
    )


@many
@given(axes(), st.sampled_from(["high_to_low", "low_to_high", "low_to_low"]))
def test_fitted_kernels_keep_the_mean(drawn: tuple[Axis, int], name: PathName) -> None:
    """A constant input gives the same constant in the interior, within 1 %: every old tap's weights sum to 1."""
    axis, _ = drawn
    gain = path(name, (axis,), "paper").matrices[0].sum(axis=0)
    np.testing.assert_allclose(gain, 1, atol=0.01)


@many
@given(axes(5, 2), st.sampled_from(["high_to_low", "low_to_high"]), st.integers(0, 9), st.data())
def test_fitted_kernels_cannot_be_bettered(
    drawn: tuple[Axis, int], name: PathName, seed: int, data: st.DataObject
) -> None:
    """No small change of a fitted tap lowers the mean square error over inputs like feature maps.

    Inputs: neighbours correlate by .9, and the mean is ten deviations away from zero. Taken over the
    interior, where no padding is read.
    """
    axis, _ = drawn
    axis = Axis(axis.taps, axis.stride, axis.pad_left, axis.pad_right, axis.dilation)
    recipe = path(name, (axis,), "paper")
    n = 4 * axis.stride * (axis.dilation * axis.taps + axis.pad_left + 4)
    n += 2 * axis.stride * (axis.output_length(n) % 2)
    assume(axis.output_length(n) % 2 == 0)
    k = kernel(axis, seed)
    want = wanted(name, axis, k, n)
    inner = slice(len(want) // 2 - 2 + (len(want) // 2) % 2, None)
    want = want[inner][:2]
    size = want.shape[1]
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    covariance = 0.9**distance + 100

    def mean_square(recipe: Path) -> float:
        rest = done(recipe, name, 0, axis, k, n)[inner][:2] - want
        return float(np.trace(rest @ covariance @ rest.T))

    least = mean_square(recipe)
    tap = data.draw(st.integers(0, axis.taps - 1))
    for change in (-0.01, 0.01):
        moved = recipe.matrices[0].copy()
        moved[tap] += change
        other = Path(
            recipe.before, recipe.after, False, recipe.starts, recipe.strides, recipe.dilations, (moved,)
        )
        assert mean_square(other) >= least - FITTED


def test_high_to_high_is_the_convolution() -> None:
    axis = Axis(5, 3, 1, 2, 2)
    for scheme in ("paper", "exact"):
        recipe = path("high_to_high", (axis,), scheme)
        assert (recipe.before, recipe.after, recipe.transposed) == ("", "", False)
        assert (recipe.starts, recipe.strides, recipe.dilations) == ((-1,), (3,), (2,))
        assert np.array_equal(recipe.matrices[0], np.eye(5))

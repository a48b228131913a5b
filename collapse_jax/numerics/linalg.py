"""Factorisations of small matrices in elementwise arithmetic, which vectorises over batches.

LAPACK, which XLA calls for them on CPU, is slow for batches of small matrices and unsafe: batched
calls of jaxlib 0.10.2 wait, in threads of a pool, for work that needs a thread of the same pool, so
a program with several of them can deadlock. Axis legend: d dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Up to this dimension each entry is a separate variable, and XLA fuses all into one loop over the
# batch; beyond it, programs would become too long.
_WRITTEN_OUT = 8
_WRITTEN_OUT_ROTATIONS = 4


def cholesky(matrix: jax.Array) -> jax.Array:
    """The lower-triangular L with L L' = matrix; not finite if there is no such L.

    Args:
      matrix: symmetric positive definite, f[d, d]; only its lower triangle is read.

    Returns:
      f[d, d].
    """
    dim = matrix.shape[-1]
    if dim > _WRITTEN_OUT:
        return _cholesky_by_columns(matrix)
    lower: list[list[jax.Array]] = []
    for i in range(dim):
        row: list[jax.Array] = []
        for j in range(i):
            row.append((matrix[i, j] - _dot(row, lower[j][:j])) / lower[j][j])
        row.append(jnp.sqrt(matrix[i, i] - _dot(row, row)))
        lower.append(row)
    zero = jnp.zeros((), matrix.dtype)
    return jnp.stack([jnp.stack(row + [zero] * (dim - len(row))) for row in lower])


def _cholesky_by_columns(matrix: jax.Array) -> jax.Array:
    dim = matrix.shape[-1]

    def column(j: jax.Array, lower: jax.Array) -> jax.Array:
        rest = matrix[:, j] - lower @ lower[j]
        return lower.at[:, j].set(jnp.where(jnp.arange(dim) >= j, rest / jnp.sqrt(rest[j]), 0.0))

    return jax.lax.fori_loop(0, dim, column, jnp.zeros_like(matrix))


def solve_lower(lower: jax.Array, right: jax.Array) -> jax.Array:
    """The x with lower x = right, by forward substitution.

    Args:
      lower: lower-triangular, f[d, d].
      right: f[d] or f[d, m].

    Returns:
      x, of the shape of `right`.
    """
    dim = lower.shape[-1]
    if dim <= _WRITTEN_OUT:
        x: list[jax.Array] = []
        for i in range(dim):
            x.append((right[i] - _dot(list(lower[i, :i]), x)) / lower[i, i])
        return jnp.stack(x)

    def row(i: jax.Array, x: jax.Array) -> jax.Array:
        return x.at[i].set((right[i] - lower[i] @ x) / lower[i, i])

    return jax.lax.fori_loop(0, dim, row, jnp.zeros_like(right))


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """The x with matrix x = right for a symmetric positive definite matrix, by Cholesky.

    Args:
      matrix: f[d, d].
      right: f[d] or f[d, m].

    Returns:
      x, of the shape of `right`; not finite if the matrix is not positive definite.
    """
    lower = cholesky(matrix)
    # L' with rows and columns reversed is lower-triangular.
    reversed_transpose = lower[::-1, ::-1].T
    return solve_lower(reversed_transpose, solve_lower(lower, right)[::-1])[::-1]


def nuclear_norm(matrix: jax.Array) -> jax.Array:
    """The sum of singular values, by one-sided Jacobi rotations (Hestenes 1958).

    Pairs of columns are rotated until all are orthogonal; their lengths are then the singular
    values. Columns are arranged in two halves and paired; after each round, one column stays and
    the others move by one place, so that every pair meets once in a sweep.

    Args:
      matrix: f[d, d].

    Returns:
      f[], within rounding of the largest singular value times d.
    """
    dim = matrix.shape[-1]
    half = (dim + 1) // 2
    padded = jnp.pad(matrix, [(0, 0), (0, 2 * half - dim)])
    sweeps = 4 + max(dim - 1, 1).bit_length()
    order = _round_robin(half)
    if dim > _WRITTEN_OUT_ROTATIONS:

        def turn(_: jax.Array, columns: jax.Array) -> jax.Array:
            one, other = _rotated(columns[:, :half], columns[:, half:])
            return jnp.concatenate([one, other], axis=1)[:, order]

        columns = jax.lax.fori_loop(0, sweeps * (2 * half - 1), turn, padded)
        return jnp.sum(jnp.sqrt(jnp.sum(columns**2, axis=0)))
    entries = [[padded[i, j] for i in range(dim)] for j in range(2 * half)]
    for _ in range(sweeps * (2 * half - 1)):
        pairs = [_rotated_entries(entries[i], entries[half + i]) for i in range(half)]
        turned = [one for one, _ in pairs] + [other for _, other in pairs]
        entries = [turned[j] for j in order]
    total = jnp.zeros((), matrix.dtype)
    for column in entries:
        total = total + jnp.sqrt(_dot(column, column))
    return total


def _round_robin(half: int) -> np.ndarray:
    """Column that moves to each place: round-robin by the circle method, the first column fixed."""
    top, bottom = list(range(half)), list(range(half, 2 * half))
    if half == 1:
        return np.array(top + bottom)
    return np.array([top[0], bottom[0], *top[1:-1], *bottom[1:], top[-1]])


def _rotated(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns f[d, m] rotated pairwise in their planes, so that each pair is orthogonal."""
    cosine, sine = _rotation(
        jnp.sum(one * one, axis=0), jnp.sum(other * other, axis=0), jnp.sum(one * other, axis=0)
    )
    return cosine * one - sine * other, sine * one + cosine * other


def _rotated_entries(
    one: list[jax.Array], other: list[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    cosine, sine = _rotation(_dot(one, one), _dot(other, other), _dot(one, other))
    pairs = list(zip(one, other, strict=True))
    return [cosine * a - sine * b for a, b in pairs], [sine * a + cosine * b for a, b in pairs]


def _rotation(
    square: jax.Array, other_square: jax.Array, product: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the smaller angle that makes two columns orthogonal."""
    difference = other_square - square
    root = jnp.sqrt(difference**2 + 4.0 * product**2)
    divisor = jnp.where(difference < 0, difference - root, difference + root)
    tangent = jnp.where(divisor == 0, 0.0, 2.0 * product / jnp.where(divisor == 0, 1.0, divisor))
    cosine = jax.lax.rsqrt(1.0 + tangent**2)
    return cosine, cosine * tangent


def _dot(one: list[jax.Array], other: list[jax.Array]) -> jax.Array:
    """Sum of products, unrolled; 0 for empty lists."""
    return sum((a * b for a, b in zip(one, other, strict=True)), start=jnp.asarray(0.0))

"""Orthonormal bases in which part of a picture may be known: its greys, or a smaller copy of it.

Eq. (4) adds N(0, I), and an orthonormal matrix takes N(0, I) to N(0, I). So the coefficients of x_t are those of x_0, noised by
Eq. (4) with the same numbers, and whatever holds for known pixels holds for known coefficients (`inpaint_steps`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal matrix that mixes the channels of a pixel (block = 1), or the pixels of each block x block square.

    matrix  (K, K) float64, one basis vector a row; K = channels for block = 1, else K = block^2
    Raises ValueError for a matrix that is not square, not orthonormal, or does not fit the block.
    """

    matrix: Tensor
    block: int = 1

    def __post_init__(self) -> None:
        m = self.matrix
        if m.ndim != 2 or m.shape[0] != m.shape[1]:
            raise ValueError(f"the matrix is {tuple(m.shape)}; wanted a square one")
        if (
            isinstance(self.block, bool)
            or not isinstance(self.block, int)
            or self.block < 1
        ):
            raise ValueError(
                f"block = {self.block!r}; wanted a whole number, at least 1"
            )
        if self.block > 1 and len(m) != self.block**2:
            raise ValueError(
                f"the matrix is {tuple(m.shape)} for blocks of {self.block} x {self.block} pixels; "
                f"wanted {self.block**2} rows"
            )
        off = float((m.double() @ m.double().T - torch.eye(len(m))).abs().max())
        if not off < 1e-6:
            raise ValueError(
                f"the rows are not orthonormal: M M^T differs from I by {off:.3g}. Noise would come out of another law; "
                "wanted an orthonormal matrix, such as torch.linalg.qr gives"
            )

    def split(self, x: Tensor) -> Tensor:
        """Pictures -> coefficients. block = 1: (B, K, H, W) likewise; else (B, K C, H / block, W / block), the first vector's first."""
        if self.block == 1:
            if x.shape[1] != len(self.matrix):
                raise ValueError(
                    f"pictures have {x.shape[1]} channels; this basis mixes {len(self.matrix)}"
                )
            return torch.einsum("kc,bchw->bkhw", self.matrix.to(x), x)
        if x.shape[2] % self.block or x.shape[3] % self.block:
            raise ValueError(
                f"{x.shape[2]} x {x.shape[3]} pixels do not fall into blocks of {self.block} x {self.block}"
            )
        parts = rearrange(
            x, "b c (h p) (w q) -> b (p q) c h w", p=self.block, q=self.block
        )
        mixed = torch.einsum("kp,bpchw->bkchw", self.matrix.to(x), parts)
        return mixed.flatten(1, 2)

    def join(self, coefficients: Tensor) -> Tensor:
        """Coefficients -> pictures, the inverse of `split`: the transposed matrix."""
        m, K = self.matrix.to(coefficients), coefficients.shape[1]
        if K != len(m) if self.block == 1 else K % len(m):
            raise ValueError(
                f"coefficients have {K} channels; wanted {'' if self.block == 1 else 'a multiple of '}{len(m)}, as split() returns them"
            )
        if self.block == 1:
            return torch.einsum("kc,bkhw->bchw", m, coefficients)
        parts = coefficients.unflatten(1, (len(m), -1))
        mixed = torch.einsum("kp,bkchw->bpchw", m, parts)
        return rearrange(
            mixed, "b (p q) c h w -> b c (h p) (w q)", p=self.block, q=self.block
        )


def grey_basis(weights: Sequence[float] = (1.0, 1.0, 1.0)) -> Basis:
    """An orthonormal basis of colours whose first vector is w / ||w||: its coefficient is the grey sum_c w_c x_c, over ||w||.

    weights  of the grey, such as (0.299, 0.587, 0.114); the other vectors are any orthonormal complement, since none is better
    Raises ValueError for fewer than two weights, and for zeros only.
    """
    if isinstance(weights, str):
        raise TypeError(f"weights = {weights!r}; wanted numbers")
    w = torch.as_tensor(weights, dtype=torch.float64)
    if w.ndim != 1 or len(w) < 2 or not bool(w.isfinite().all()) or not float(w.norm()):
        raise ValueError(
            f"weights = {weights}; wanted two numbers or more that are not all 0"
        )
    q, _ = torch.linalg.qr(torch.cat([w[:, None], torch.eye(len(w)).double()], 1))
    return Basis((q * torch.sign(w @ q[:, 0])).T)


def haar_basis() -> Basis:
    """Haar's basis of 2 x 2 pixels: twice their mean first, then the differences left to right, top to bottom, and across."""
    rows = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    return Basis(torch.tensor(rows, dtype=torch.float64) / 2, block=2)

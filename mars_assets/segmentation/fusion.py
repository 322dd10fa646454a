"""A transposed convolution and the convolution after it, computed at once.

The map between the two, four times as large, never exists. The bound in ``benchmarks/segmentation.py``, a training step
of the paper's recipe at 1.5 times the speed of plain PyTorch, rests on this where a CPU computes in fp32, since there
nothing else differs: without it the step took 1.52 times as long (CPU time on one thread, v1_100, batch of 4). In bf16
it took 1.56 times as long without AMX, and 0.94 times (0.79 to 1.04) with it, where the bound holds without this.

Letters in shapes: B batch, C, M, O channels before, between and after, H x W pixels before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

# Row of the small map and row of the transposed kernel that a row of the 3 x 3 kernel meets, by the parity of the
# output's row, which is also the first small row, counted in the padded map: there are two of them, 0 and 1.
_MEETS = torch.zeros(2, 2, 3, 2)  # parity, small row, row of the 3 x 3 kernel, row of the transposed kernel
for _parity in range(2):
    for _row in range(3):
        _large = _parity + _row + 1  # row of the large map, counted from one padded small row before the output's
        _MEETS[_parity, _large // 2 - _parity, _row, _large % 2] = 1.0


def deconvolve_and_convolve(
    x: Tensor, deconvolution: Tensor, deconvolution_bias: Tensor, convolution: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Apply a transposed convolution and a 3 x 3 convolution at once.

    The result is that of ``conv2d(conv_transpose2d(x, deconvolution, deconvolution_bias, stride=2), convolution, bias,
    padding=1)``. Both are linear, so that each output pixel is a sum over 2 x 2 pixels of x with weights that depend on
    the parity of its row and column. Per pixel of x that takes 16 C O products instead of 4 C M + 36 M O, a third at
    the paper's widths (768, 768, 256), and there is no map (B, M, 2H, 2W) to keep for the gradient.

    Args:
        x: (B, C, H, W).
        deconvolution: (C, M, 2, 2).
        deconvolution_bias: (M,).
        convolution: (O, M, 3, 3).
        bias: (O,).

    Returns:
        (B, O, 2H, 2W), each pixel's channels together in memory; differentiable in all arguments.
    """
    b, _, height, width = x.shape
    outputs = convolution.shape[0]
    meets = _MEETS.to(convolution)
    products = torch.einsum("omij,cmuv->ocijuv", convolution, deconvolution)
    kernels = torch.einsum("ocijuv,asiu,btjv->abocst", products, meets, meets)
    padded = F.pad(x, (1, 1, 1, 1))
    rows = []
    for row in range(2):
        columns = [
            F.conv2d(padded[:, :, row : row + height + 1, column : column + width + 1], kernels[row, column])
            for column in range(2)
        ]
        rows.append(torch.stack([part.permute(0, 2, 3, 1) for part in columns], dim=3))
    result = torch.stack(rows, dim=2).reshape(b, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)
    # At the border the 3 x 3 kernel sees zeros that have no bias.
    seen = torch.einsum("omij,m->oij", convolution, deconvolution_bias)
    constant = F.conv2d(x.new_ones(1, 1, 2 * height, 2 * width), seen[:, None].to(x.dtype), padding=1)
    return result + (constant if bias is None else constant + bias[:, None, None])


def channels_together(x: Tensor) -> Tensor:
    """Put each pixel's channels together in memory, on a CPU.

    Convolutions of (B, C, H, W) are up to twice as fast then.
    """
    return x if x.is_cuda else x.contiguous(memory_format=torch.channels_last)

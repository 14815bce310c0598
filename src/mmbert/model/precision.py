"""Float32 accumulation of half-precision matrix products on a GPU."""

import torch


def add_products_in_float32() -> None:
    """Forbid reduced-precision reductions in bfloat16 and float16 matrix products.

    A product over a long dimension (such as a weight's gradient, over all tokens of a row) is split
    into parts. By default, PyTorch lets cuBLAS add the partial sums in the dtype of the result.
    Split products remain allowed. Process-wide; call before the first product. No effect on a CPU.
    """
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False

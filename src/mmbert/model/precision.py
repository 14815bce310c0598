"""How a GPU adds up the products of a half-precision matrix product: in float32, always."""

import torch


def add_products_in_float32() -> None:
    """Let no matrix product of bfloat16 or float16 add its parts in that type.

    A product over a long dimension (the gradient of a weight, over all tokens of a row) is split
    into parts, whose sums PyTorch lets cuBLAS add in the type of the result unless it is told not
    to. Splitting itself stays allowed. For the whole process, before its first product; on a CPU
    it changes nothing.
    """
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False

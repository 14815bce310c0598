"""Layer norms fused with residual addition, dropout or embedding look-up.

- `layer_norm`: layer norm, alone or with the residual addition.
- `embedding_layer_norm`: embedding look-up with layer norm.
- `dropout`: counter-based dropout masks.
- `triton_kernels`: the Triton kernels of all of these.
"""

"""Layer norms with what lies around them: residual addition, dropout, embedding.

`mmbert_kernels.layer_norm` is the function; this package's modules are imported by their names.
"""

"""Sizes of the buffers that ZeRO takes: the engine sets them, a plan counts them."""

# Elements of a gradient bucket: large enough that a collective is bound by bandwidth, small enough
# (200 MB in float32) that the buffers, which ZeRO allocates whole, do not matter.
BUCKET_ELEMENTS = 50_000_000
# Under ZeRO 3 DeepSpeed keeps as many gathered weights as this (its stage3_max_live_parameters).
MAX_LIVE_PARAMETERS = 1_000_000_000

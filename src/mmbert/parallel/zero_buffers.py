"""ZeRO's buffer sizes, set by the engine and counted by the planner."""

# Elements of a gradient bucket: large enough for collectives to be bandwidth-bound, small enough
# (200 MB in float32) for the buffers, which ZeRO allocates whole, not to matter.
BUCKET_ELEMENTS = 50_000_000
# Gathered weights that DeepSpeed keeps under ZeRO 3 (stage3_max_live_parameters).
MAX_LIVE_PARAMETERS = 1_000_000_000

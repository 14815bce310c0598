"""ZeRO's buffer sizes, set by the engine and counted by the planner."""

# Elements per gradient bucket: large enough that collectives are bandwidth-bound, small enough
# (200 MB in float32) that the fully allocated buffers of ZeRO are negligible.
BUCKET_ELEMENTS = 50_000_000
# Maximum number of gathered parameters kept by DeepSpeed's ZeRO 3 (stage3_max_live_parameters).
MAX_LIVE_PARAMETERS = 1_000_000_000

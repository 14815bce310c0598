"""Ranks without progress: found by heartbeats, and named with their stacks.

- `watchdog`: hang detection from per-rank heartbeats.
- `hang_report`: text about the ranks that block the others.
- `guarded_store`: the watchdogs' store, whose operations end in time.
- `activity`: activities of a rank, and the sections of a run that they belong to.
- `section_limits`: limits for the time without progress, from what the run has seen.
"""

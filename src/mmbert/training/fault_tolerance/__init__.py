"""Detection of failures during training, and recovery from them.

- `watchdog`: hang detection from per-rank heartbeats.
- `hang_report`: text about the ranks that block the others.
- `guarded_store`: the watchdogs' store, whose operations end in time.
- `activity`: activities of a rank, and the sections of a run that they belong to.
- `section_limits`: limits for the time without progress, from what the run has seen.
- `loss_monitor`: loss spikes and non-finite steps.
- `slow_ranks`: ranks whose own work takes longer than the others'.
- `step_comparison`, `step_checks`: several runs of a step compared; what is kept of that.
- `stop_request`: stop requests by signal, STOP file or death of the launcher.
- `process_tree`: launchers among the ancestors of this process.
- `loop_requests`: requests between steps: stop, save, abort.
- `memory_check`: run of every phase's largest batch before training.
"""

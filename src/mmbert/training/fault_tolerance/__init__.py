"""Detection of failures during training, and recovery from them.

- `hangs`: ranks without progress are found and named.
- `loss_monitor`: loss spikes and non-finite steps.
- `slow_ranks`: ranks whose own work takes longer than the others'.
- `step_comparison`, `step_checks`: several runs of a step compared; what is kept of that.
- `stop_request`: stop requests by signal, STOP file or death of the launcher.
- `process_tree`: launchers among the ancestors of this process.
- `loop_requests`: requests between steps: stop, save, abort.
- `memory_check`: run of every phase's largest batch before training.
"""

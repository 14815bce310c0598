"""Detection of failures during training, and recovery from them.

- `watchdog`: hang detection from per-rank heartbeats.
- `loss_monitor`: loss spikes and non-finite steps.
- `stop_request`: signals, a STOP file, the death of the launcher.
- `process_tree`: the launchers above this process.
- `loop_requests`: requests between steps: stop, save, abort.
- `memory_check`: the largest batch of every phase, run before training.
"""

"""Parts of the trainer.

- `ranks`: process groups and watchdog.
- `data_feed`: training rows of this rank, and the resumable data state.
- `checkpointing`: checkpoint intervals and store.
- `interval_record`: record of a logging interval.
- `start_details`: recipe, machines and versions of a start, for the log.
"""

"""Parts of the trainer.

- `ranks`: process groups and watchdog.
- `data_feed`: training rows of this rank, and the resumable data state.
- `checkpointing`: checkpoint intervals and store.
- `interval_record`: record of a logging interval.
- `event_texts`: texts of events in the log.
- `slow_nodes`: comparison of the ranks' own work, to name slow nodes.
- `start_details`: recipe, machines and versions of a start, for the log.
"""

"""Parts of the trainer.

- `ranks`: this process among the others: process grid, host-side group, watchdog.
- `data_feed`: this rank's rows, and where to resume reading.
- `checkpoints`: when to save, and the checkpoint folder.
- `interval_record`: the record of a logging interval.
"""

"""Parts of the trainer.

- `ranks`: process groups and watchdog.
- `data_feed`: training rows of this rank, and the resumable data state.
- `checkpointing`: checkpoint intervals and store.
- `repetition`, `moved_rows`: steps that run again, on the same ranks and on others.
- `wrong_results`: reports of the hosts that are suspected then.
- `rollbacks`: rollbacks after loss spikes.
- `bad_step`: rows, documents and languages of a step that went wrong.
- `interval_record`: record of a logging interval.
- `event_texts`: texts of events in the log.
- `slow_nodes`: comparison of the ranks' own work, to name slow nodes.
- `start_details`: recipe, machines and versions of a start, for the log.
"""

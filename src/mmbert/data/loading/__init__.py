"""From pieces to batches on the device. Only `device_batch` and `device_inputs` need torch.

- `streams`, `packing`: virtual data streams that pack their part of a phase's pieces into rows.
- `rows`, `masking`, `masks`: arrays of a row, its masked positions and labels.
- `data_state`: data state of a checkpoint, and the transition from one phase to the next.
- `row_source`, `worker_processes`, `loader`: rows of one data rank, in this process or read ahead.
- `device_batch`, `device_inputs`: rows as tensors, prefetched to the device.
- `validation_rows`: fixed validation rows and a unigram baseline.
- `replay`: documents used by any step.
"""

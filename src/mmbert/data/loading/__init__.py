"""From pieces to batches on the device. Only `device_batch` and `device_inputs` need torch.

- `streams`, `packing`: virtual streams share a phase's pieces and pack their part into rows.
- `rows`, `masking`: a row's segments become arrays; masked positions and labels.
- `data_state`: the data state of a checkpoint, and the passage from one phase to the next.
- `row_source`, `worker_processes`, `loader`: rows of one data rank, in this process or read ahead.
- `device_batch`, `device_inputs`: rows as tensors, on their way while the row before is computed.
- `validation_rows`: the fixed held-out rows, and a unigram baseline.
- `replay`: the documents of any step.
"""

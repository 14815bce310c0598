"""Measuring and logging the metrics of a run.

- `loss_meter`, `interval_metrics`, `log_metrics`: losses, counts and rates of a logging interval.
- `step_timer`, `communication_timer`, `profiler`: timing.
- `own_work`: a rank's own work in the steps of a log line, without waiting for other ranks.
- `validation`: held-out loss per language and tier.
- `loggers`: console, `log.jsonl`, TensorBoard.
- `results`: `results.json` and the table at the end of a run.
"""

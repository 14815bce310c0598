"""Metrics of a run: measured, collected, logged.

- `loss_meter`, `interval_metrics`, `log_metrics`: losses and counts between two log lines.
- `step_timer`, `communication_timer`, `profiler`: where time goes.
- `validation`: held-out loss per language and tier.
- `loggers`: console, `log.jsonl`, TensorBoard.
- `results`: `results.json` and the table at the end of a run.
"""

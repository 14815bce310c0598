"""Metric loggers, on rank 0 only.

- `base_logger`: `BaseLogger`, the interface of a logger, and `RunInfo`, its constructor argument.
- `console_logger`, `jsonl_logger`: standard output and `log.jsonl`; always enabled.
- `tensorboard_logger`, `tensorboard_tags`: TensorBoard event files, and the tags of the metrics.
- `container`: `LoggerContainer`, which forwards calls to all loggers, and `LOGGERS`, the registry
  for `logging.loggers` in the recipe.
"""

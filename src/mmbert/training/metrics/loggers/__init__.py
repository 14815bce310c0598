"""Metric loggers, on rank 0 only.

- `base_logger`: `BaseLogger`, what a logger may implement, and `RunInfo`, what it is built from.
- `console_logger`, `jsonl_logger`: always on: standard output, and `log.jsonl`.
- `tensorboard_logger`, `tensorboard_tags`: TensorBoard, and the tags that metrics are logged under.
- `container`: `LoggerContainer`, which passes everything on to each logger, and `LOGGERS`, the
  loggers that `logging.loggers` in the recipe may name.
"""

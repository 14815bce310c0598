"""The optimizer step on flat partitions."""

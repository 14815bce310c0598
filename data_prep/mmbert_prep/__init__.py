"""Offline pipeline: text in many languages -> tokenizer and memory-mapped token shards."""

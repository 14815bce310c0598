"""Offline preprocessing: text in many languages to a tokenizer and memory-mapped token shards."""

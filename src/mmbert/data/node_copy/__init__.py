"""Copies of shards on a node's own disk.

- `copy_plan`: which files a run reads, and the folder that they are copied to.
- `copier`: copying of a share of the files, verified by their checksums.
"""

"""What lies at a path, for people: shards, runs, checkpoints, single documents and steps."""

"""What a run loses of its input, and the limits on it.

- `plan`: the input bytes that a run sets out to read, and files that are lost before reading.
- `limits`: sums of losses, and which of the limits they exceed.
- `message`: the error of a run that lost more than its limits.
- `ledger`: losses of all workers, so that a run that must end above its limits stops early.
"""

"""The only room that knows DeepSpeed: ZeRO 1-3 over the process grid.

- `engine`: wrapper around DeepSpeed's engine.
- `deepspeed_config`: its configuration, and what is refused.
- `zero_views`: DeepSpeed's ZeRO optimizers behind one interface.
- `optimizers`: the optimizers that a recipe may name, and the interface that they share.
- `partitions`: layout of ZeRO's flat partitions; which parameters decay.
- `adamw`: AdamW of PyTorch.
- `stable_adamw`: StableAdamW on a flat partition; the update is clipped by RMS here.
- `gradient_reducer`: gradient reduction that overlaps the last backward pass (ZeRO 1).
- `host_sync`: the only device-to-host synchronization in a training step.
- `step_scalars`: the scalars read by it, by name.
"""

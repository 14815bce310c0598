"""DeepSpeed engine with ZeRO 1-3 over the process grid, and the optimizers.

- `engine`: wrapper around DeepSpeed's engine; nothing else imports deepspeed.
- `deepspeed_config`: DeepSpeed's configuration, and checks of the recipe.
- `zero_views`: common interface to DeepSpeed's ZeRO optimizers.
- `optimizers`: registry and interface of the optimizers, which have a module each.
- `stable_adamw`: StableAdamW; clips the update of each tensor by its RMS.
- `partitions`: layout of ZeRO's flat partitions; parameters exempt from weight decay.
- `gradient_reducer`: gradient reduction that overlaps the last backward pass (ZeRO 1).
- `host_sync`: the only device-to-host synchronization in a training step.
- `step_scalars`: the scalars that it reads.
"""

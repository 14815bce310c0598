"""DeepSpeed engine with ZeRO 1-3 over the process grid, and the optimizers.

- `engine`: wrapper around the DeepSpeed engine; the only module that imports deepspeed.
- `deepspeed_config`: DeepSpeed's configuration, and checks of the recipe.
- `zero_views`: common interface to DeepSpeed's ZeRO optimizers.
- `optimizers`: registry and interface of the optimizers.
- `adamw`, `stable_adamw`: AdamW; StableAdamW, which clips each tensor's update by its RMS.
- `muon`, `matrix_exchange`: Muon and NorMuon on whole matrices; their way to an owner and back.
- `partitions`: layout of ZeRO's flat partitions; parameters exempt from weight decay.
- `gradient_reducer`: gradient reduction that overlaps the last backward pass (ZeRO 1).
- `host_sync`: the only device-to-host synchronization in a training step.
- `step_scalars`: scalars read in this synchronization.
"""

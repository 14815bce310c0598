"""Ablation study of a recipe: training with and without each idea, and comparison.

- `ablations`: the ablations of a recipe, as lists of overrides.
- `runs`: training runs, one per ablation and seed.
- `comparison`: held-out losses by tier, with differences paired by seed.
"""

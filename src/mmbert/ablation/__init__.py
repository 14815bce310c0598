"""Ablations of a recipe's annealed settings: train with and without each, and compare.

- `ablations`: the ablations of a recipe, as lists of overrides.
- `runs`: training of each ablation with each seed.
- `comparison`: held-out losses by tier, with differences paired by seed.
"""

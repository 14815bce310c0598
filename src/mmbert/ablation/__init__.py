"""Ablation study of a recipe: training it without each idea or with the user's own, and comparison.

- `ablations`, `variations`: the recipe without each of its ideas, and the user's variations, as
  lists of overrides.
- `equal_flops`: training FLOPs, and the tokens at which a variation costs as much as the recipe.
- `runs`: training runs, one per ablation and seed.
- `comparison`, `threshold`, `tables`: held-out losses by tier, with differences paired by seed.
- `search`, `tuning`: the best value of a rate, by training with one after the other.
"""

"""Model merging: averages and TIES.

- `methods`: the arithmetic, on tensors.
- `merge`: merging given models into a Hugging Face folder.
- `merge_run`: merging a run according to its recipe.
"""

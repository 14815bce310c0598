"""The order of training data, as a pure function of recipe, manifests and seed.

- `mixture_weights`: tokens of each component in each phase.
- `mixture`: component of the n-th piece of a phase, in closed form.
- `permutation`: order of a component's pieces within an epoch, by a keyed bijection.
- `consumption`: pieces drawn by earlier phases, so that the next phase continues after them.
- `phase_sampler`: the sequence of pieces of a phase and their locations on disk.
- `recipe_warnings`: probable mistakes in a recipe, the same for plan, dry run and run.
- `component_table`: components with their languages and tiers, for logs and results.
- `loss_table`: losses by component, and their means by tier and language.
"""

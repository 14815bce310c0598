"""The order of training data, as a pure function of recipe, manifests and seed.

- `mixture_weights`: how many tokens each component gets in each phase.
- `mixture`: which component the n-th piece of a phase comes from, in closed form.
- `permutation`: the order of a component's pieces within an epoch, by a keyed bijection.
- `consumption`: what earlier phases have drawn, so that the next one goes on where they stopped.
- `phase_sampler`: the sequence of pieces of a phase, and where each lies.
- `component_table`: components with their languages and tiers, for logs and results.
- `loss_table`: losses by component, and their means by tier and language.
"""

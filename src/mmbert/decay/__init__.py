"""A decay phase of one's own in one command, from a model and text to a model and losses.

- `request`: what was asked for, kept in the output folder.
- `layout`: the files of the output folder.
- `pinned_models`: models by name, at the commit that the decay began with.
- `filled_recipe`: a recipe with the values of the imported model and state.
- `stages`: the stages, their commands, and which of them are done.
- `importing`, `preprocessing`, `planning`, `merging`: single stages.
- `comparison`: held-out losses before and after, by language.
- `comparison_table`: their table and file.
"""

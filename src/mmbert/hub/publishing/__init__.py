"""Publication of a run: each kept checkpoint as a revision, in a folder or on the hub.

- `publish`: the command: what is to be done, and doing it.
- `plan_table`: the plan as a table.
- `revision`: the folder of one revision: export, ONNX graphs, checks.
- `publication`: publication.json, which says what a revision was made from and how it was checked.
- `held_out_documents`, `losses`: text and losses of the run.
- `card_sections`: what the model card says beyond that of an export.
- `place`: where revisions go; `local_folder`, `repository`: the two places.
- `hub_errors`: what is said of the hub's answers.
"""

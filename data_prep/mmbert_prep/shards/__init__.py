"""Documents to finished shards.

- `encode`: clean and tokenize the documents of a work unit.
- `intermediate`: the intermediate shard of a work unit.
- `deduplicate_and_split`: assign each document to train, held-out, duplicate or over-cap.
- `earlier_sources`: documents that an earlier source of the same call has.
- `merge`, `languages`: write the shards and manifest of a language, and publish it.
- `summary`, `report`: counts of a run, as JSON, on the console and as a table.
- `language_names`: what names of languages in paths and columns were taken for.
- `verify`: compare shards with their source text.
"""

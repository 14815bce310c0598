"""From documents to finished shards.

- `encode`: documents of a work unit, cleaned and tokenized.
- `intermediate`: intermediate shards of one unit.
- `selection`: train, held out, duplicate or over the cap: the status of every document.
- `merge`, `languages`: a language's parts become its shards and manifest.
- `summary`, `report`: what was done, for people.
- `verify`: shards against their checksums and their source text.
"""

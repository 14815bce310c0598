"""Languages as people write them (`en`, `pt_BR`, `zh-Hans`, `English`), to FineWeb2's keys.

- `keys`: the form of a key (`swh_Latn`), and the keys of FineWeb2.
- `codes`: ISO 639-3 codes of a tag or a name, from the tables of langcodes and Babel.
- `resolution`: the key of a name, or why it has none and which keys may be meant.
- `nearest`: the keys that a misspelt name may mean.
- `siblings`: which names of a folder's files or folders are languages, from all of them together.
- `overrides`, `overrides_file`: the user's own keys, from the file of `--language-map`.
- `option`: the value of `--language`.
- `report`: what names were taken for, for the console and `summary.json`.
"""

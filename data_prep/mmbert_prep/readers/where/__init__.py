"""Conditions on the columns beside the text (`--where`), evaluated by pyarrow.

- `parsing`, `kinds`, `literals`: a condition's text to an expression of pyarrow, with the kind
  of each column.
- `condition`: conditions on the columns of a file: checked, then evaluated by batch.
- `values`: values of rows without a schema, as the kinds that a condition needs.
- `selection`: the rows that the conditions select, in the stream of a reader.
"""

from mmbert_prep.readers.where.condition import RowFilter, SchemaFilter
from mmbert_prep.readers.where.selection import condition_of, selected_rows

__all__ = ["RowFilter", "SchemaFilter", "condition_of", "selected_rows"]

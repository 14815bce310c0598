"""Reports on shards: what text went in, by language, for somebody who reads the languages.

- `contents`: figures of each language, from the manifests, summaries and index files.
- `document_lengths`: distribution of the lengths of documents.
- `samples`: random documents of a language, decoded.
- `names`: names, scripts and tags of languages.
- `identifiers`: libraries that identify languages.
- `identification`: comparison of what they find with the languages' names.
- `charts`, `tables`: parts of the page.
- `page`: the HTML file; its template is `shards.html.jinja` in the folder above.
- `console`: totals and the most noticeable languages.
"""

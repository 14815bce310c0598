"""Reports: one self-contained HTML page of one or several runs, or of shards (`shards`).

- `run_log`: valid records and events of `log.jsonl`.
- `run`: contents of a run folder, and what it lacks.
- `thinning`: selection of the points of a long curve that are drawn.
- `curves`: points of the charts, as rows.
- `axes`: axes, colors and phase bands.
- `charts`: Vega-Lite charts, built with Altair.
- `figures`, `sections`: charts with their texts, for one run and for several; their order.
- `tables`, `recipe_changes`: held-out losses, events, starts; differences between recipes.
- `page`, `template.html.jinja`: the HTML file; `style.css.jinja` and `tables.html.jinja` are parts
  of both pages.
- `shards`: the page of shards.
"""

"""Layout of published and saved datasets: which files hold text to train on.

- `splits`: validation and test splits, which are left out.
- `saved_datasets`: folders of `datasets.save_to_disk` and of the datasets cache.
- `unread_kinds`: files that are not read, and what to do with them.
"""

"""Filters of single documents: cleaning and decontamination.

Duplicates and caps need all documents of a language: mmbert_prep.shards.selection.
"""

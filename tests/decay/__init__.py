"""`mmbert decay`: stages, requests, recipes, tables, and whole decays of tiny models."""

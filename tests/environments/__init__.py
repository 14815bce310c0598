"""Virtual environments: of the oldest releases allowed, and of wheels without a network."""

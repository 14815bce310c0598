"""What each idea of an annealed recipe does: the recipe trained with and without it, compared."""

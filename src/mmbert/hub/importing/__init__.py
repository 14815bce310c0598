"""Import of foreign models: weights, another vocabulary, a smaller architecture."""

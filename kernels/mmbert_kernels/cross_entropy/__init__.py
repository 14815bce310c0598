"""Linear cross-entropy: logits, softmax and loss in one operation that never holds all logits."""

"""The encoder: ModernBERT on packed tokens, built from the layers of mmbert.parallel.

- `config`: the encoder's sizes.
- `modernbert`: the model.
- `packed_batch`: its input, a row of packed documents.
- `initialization`: random initial weights.
- `initial_checkpoint`, `initial_weights`: initial weights from an imported model.
- `activation_memory`: memory of the activations, by formula.
- `flops`: FLOPs of training.
- `precision`: accumulation of half-precision matrix products.
"""

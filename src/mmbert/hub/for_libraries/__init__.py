"""Files of a Hugging Face folder for libraries other than transformers.

- `sentence_transformers_files`: pooling and similarity, so that sentence-transformers guesses none.
- `onnx_graphs`: the encoder as an ONNX graph in float32, compared with this project's model.
- `int8_graph`: that graph with 8-bit weights, and how near its vectors are.
"""

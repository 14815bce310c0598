"""Tokenizers: training, conversion and encoding.

- `stage`: provides the tokenizer of an output folder.
- `sample`, `training`: sample of all languages, and training on it.
- `folder`: writes and compares tokenizer folders.
- `conversion`: SentencePiece model to Hugging Face fast tokenizer.
- `encoders`: SentencePiece and Hugging Face encoders; reserved ids never result from text.
- `fast_encoder`: kitoken, verified against SentencePiece.
- `hashes_only`: stand-in for an encoder where only hashes are needed.
- `text_splitter`: splits texts where no token can span the boundary.
- `adversarial`: fixed texts on which encoders are compared.
- `model_proto`: the protobuf of SentencePiece models.
"""

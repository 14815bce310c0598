"""Hugging Face interoperability: export, import and masked-token prediction.

- `export`: a checkpoint as a Hugging Face folder, with `model_card`.
- `publishing`: a run's checkpoints as revisions, in a folder or on the hub.
- `for_libraries`: what sentence-transformers and ONNX need of a folder.
- `importing`: Hugging Face models as starting points for training.
- `model_source`: checkpoints and Hugging Face folders behind one interface.
- `hub_name`: models by their name on the hub.
- `configuration`, `tokenizer`, `weights`, `pickled_weights`: the files of a folder.
- `models`: models in memory.
- `verification`: logits in transformers against this project's model.
- `fill_mask`: masked-token prediction.
- `output_folder`: atomic output folders.
- `live`: our packed encoder inside live Hugging Face models (`mmbert.pack`).
"""

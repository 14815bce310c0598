"""What sentence-transformers reads beside a model: its modules, their pooling and similarity."""

from pathlib import Path

from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.output_folder import write_json

POOLING_FOLDER = "1_Pooling"
# Names of sentence-transformers 2 and 3, which later releases know as well.
_TRANSFORMER = "sentence_transformers.models.Transformer"
_POOLING = "sentence_transformers.models.Pooling"
# Spelled out as release 3 saves them; later ones read these keys without a warning.
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
          "lasttoken")  # fmt: skip


def write_sentence_transformers_files(folder: Path, model: HuggingFaceModel) -> None:
    """Write modules.json, the pooling (mean of all tokens), the similarity and the longest input.

    Without them sentence-transformers loads the folder too, but says that it creates a pooling of
    its own. No release is written as the writer, since readers warn of releases newer than theirs.
    """
    modules = [("", _TRANSFORMER), (POOLING_FOLDER, _POOLING)]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": model.context, "do_lower_case": False},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    (folder / POOLING_FOLDER).mkdir()
    write_json(
        folder / POOLING_FOLDER / "config.json",
        {
            "word_embedding_dimension": model.encoder.hidden_size,
            **{f"pooling_mode_{mode}": mode == "mean_tokens" for mode in _MODES},
            "include_prompt": True,
        },
    )

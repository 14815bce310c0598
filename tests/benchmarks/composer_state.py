"""A checkpoint of a run in the layout of MosaicML Composer, the start of a measured decay.

python -m tests.benchmarks.composer_state RUN/checkpoints/step-00000440 RUN/tokenizer state.pt
"""

import argparse
import json
from pathlib import Path

import torch

from mmbert.checkpoint.reader import CheckpointReader
from mmbert.recipe import parse_recipe
from mmbert.schedule import learning_rate, training_plan
from tests.support.composer import composer_state

_PLACES = {"model.embeddings.": "bert.embeddings.", "model.layers.": "bert.encoder.layers."}
_PLACES["model.final_norm."] = "bert.final_norm."


def composer_name(name: str) -> str:
    """Return FlexBERT's name of a parameter, under Composer's wrapper."""
    for ours, theirs in _PLACES.items():
        if name.startswith(ours):
            return f"model.{theirs}{name.removeprefix(ours)}"
    return f"model.{name}"


def write_state(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write weights, moments, step and configuration in the layout of the kept fixture."""
    reader = CheckpointReader(checkpoint)
    index = reader.index
    recipe = parse_recipe(index.state.recipe)
    plan = training_plan(recipe)
    state = composer_state()
    for key in ("callbacks", "metadata", "rng"):
        state.pop(key, None)
    names = {name: composer_name(name) for name in index.parameters}
    state["model"] = {theirs: reader.full(name) for name, theirs in names.items()}
    state["model"]["model.decoder.weight"] = state["model"][
        "model.bert.embeddings.tok_embeddings.weight"
    ]
    saved = state["optimizers"]["StableAdamW"]
    saved["state"] = {
        theirs: {
            "exp_avg": reader.full(name, "exp_avg"),
            "exp_avg_sq": reader.full(name, "exp_avg_sq"),
            "eps_sq": torch.tensor(recipe.optimizer.eps**2),
            "kahan_comp": None,
        }
        for name, theirs in names.items()
    }
    matrices = [theirs for name, theirs in names.items() if len(index.parameters[name].shape) > 1]
    vectors = [theirs for theirs in names.values() if theirs not in matrices]
    rate = learning_rate(recipe, plan, min(index.state.step, plan.steps - 1))
    for group, members in zip(saved["param_groups"], (vectors, matrices), strict=True):
        group |= {
            "params": members,
            "step": torch.tensor(index.optimizer_steps, dtype=torch.int32),
            "lr": rate,
            "initial_lr": recipe.optimizer.learning_rate,
            "max_lr": recipe.optimizer.learning_rate,
            "beta1": recipe.optimizer.betas[0],
            "beta2": recipe.optimizer.betas[1],
            "eps": recipe.optimizer.eps,
        }
    saved["param_groups"][1]["weight_decay"] = recipe.optimizer.weight_decay
    timestamp = state["timestamp"]["Timestamp"]
    for key in [key for key in timestamp if key.endswith("_wct")]:
        del timestamp[key]
    timestamp |= {"batch": index.state.step, "token": index.state.tokens}
    phase = next(phase for phase in recipe.phases if phase.name == index.state.phase)
    hugging_face = state["integrations"]["huggingface"]
    hugging_face["model"]["config"]["content"] |= {
        "hidden_size": recipe.model.hidden_size,
        "intermediate_size": recipe.model.intermediate_size,
        "num_hidden_layers": recipe.model.num_hidden_layers,
        "num_attention_heads": recipe.model.num_attention_heads,
        "global_attn_every_n_layers": recipe.model.global_attention_every,
        "sliding_window": recipe.model.local_window,
        "rotary_emb_base": phase.rotary_bases.global_,
        "local_attn_rotary_emb_base": phase.rotary_bases.local_,
        "attn_out_dropout_prob": recipe.model.attention_output_dropout,
        "vocab_size": index.parameters["model.embeddings.tok_embeddings.weight"].shape[0],
    }
    hugging_face["tokenizer"] = {
        name: {"file_extension": ".json", "content": json.loads((tokenizer / name).read_text())}
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
        if (tokenizer / name).is_file()
    }
    torch.save({"state": state}, out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_state(options.checkpoint, options.tokenizer, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""A packed model is handled like any other: checkpointing, copies, new weights."""

import copy
import inspect
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmbert
from tests.support.live_models import (
    ENCODER,
    KINDS,
    LENGTHS,
    MASKED_LM,
    QUESTIONS,
    SEQUENCE,
    TOKENS,
    VERSION,
    Results,
    assert_same,
    difference,
    live_model,
    padded,
    train,
    with_labels,
)

HEADED = [MASKED_LM, SEQUENCE]


def mixed(kind: str = ENCODER) -> dict[str, Tensor]:
    return with_labels(kind, padded(LENGTHS["mixed"]))


def results(kind: str, change: Any, **changes: Any) -> tuple[Results, Results, Any]:
    """Return the results of a model changed by `change`, packed before that and unpacked, and the
    packed model."""
    packed, unpacked = (live_model(kind, **changes) for _ in range(2))
    mmbert.pack(packed)
    for model in (packed, unpacked):
        change(model)
    return train(packed, mixed(kind)), train(unpacked, mixed(kind)), packed


@pytest.mark.parametrize("kind", HEADED)
def test_gradient_checkpointing(kind: str) -> None:
    def checkpoint(model: Any) -> None:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    packed, unpacked, model = results(kind, checkpoint)
    assert_same(packed, unpacked)
    # Two passes before the first one's backward pass, the second without autocast: the layers
    # computed again are given the weights of their own pass.
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(**mixed(kind)).loss
    kept = model(**mixed(kind)).loss
    loss.backward()
    assert kept.requires_grad
    expected = live_model(kind)
    with torch.autocast("cpu", torch.bfloat16):
        expected.train()(**mixed(kind)).loss.backward()
    for name, parameter in expected.named_parameters():
        error = difference(dict(model.named_parameters())[name].grad, parameter.grad)
        assert error < 0.1, name


def test_gradient_checkpointing_keeps_one_tensor_a_layer() -> None:
    model = mmbert.pack(live_model()).train()
    kept = {}
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            model(**mixed())
        kept[checkpointed] = sum(sizes)
    assert kept[True] < kept[False] / 2


def test_embeddings_in_place_of_ids() -> None:
    model, batch = live_model(), mixed()
    mask = batch["attention_mask"]
    table = model.get_input_embeddings()
    found = {}
    for packed in (False, True):
        if packed:
            mmbert.pack(model)
        embeddings = table(batch["input_ids"]).detach().requires_grad_()
        hidden = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        (hidden[mask.bool()] ** 3).mean().backward()
        found[packed] = hidden[mask.bool()].detach(), embeddings.grad
    assert difference(found[True][0], found[False][0]) <= 2e-6
    assert difference(found[True][1], found[False][1]) <= 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states(kind: str) -> None:
    model, batch = live_model(kind).eval(), padded(LENGTHS["mixed"])
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True)
        found = mmbert.pack(model)(**batch, output_hidden_states=True)
        as_tuple = model(**batch, output_hidden_states=True, return_dict=False)
        expected_tuple = mmbert.unpack(model)(**batch, output_hidden_states=True, return_dict=False)
        plain = mmbert.pack(model)(**batch)
    assert plain.hidden_states is None
    assert len(found.hidden_states) == len(expected.hidden_states) == 5
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert difference(ours[real], theirs[real]) <= 2e-6
    assert len(as_tuple) == len(expected_tuple)


def test_gradients_through_hidden_states() -> None:
    def through(model: Any) -> Tensor:
        states = model(**mixed(), output_hidden_states=True).hidden_states
        real = mixed()["attention_mask"].bool()
        sum((state[real] ** 3).mean() for state in states).backward()
        return model.layers[0].mlp.Wi.weight.grad

    assert difference(through(mmbert.pack(live_model())), through(live_model())) <= 5e-6


@pytest.mark.parametrize("kind", KINDS)
def test_tuples(kind: str) -> None:
    model, batch = live_model(kind).eval(), with_labels(kind, padded(LENGTHS["equal"]))
    with torch.no_grad():
        expected = model(**batch, return_dict=False)
        found = mmbert.pack(model)(**batch, return_dict=False)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) <= 2e-6


@pytest.mark.parametrize("count", [7, torch.tensor(7)])
def test_number_of_items_in_the_batch(count: object) -> None:
    model, batch = live_model(MASKED_LM), mixed(MASKED_LM)
    for mode in (True, False):
        model.train(mode)
        expected = model(**batch, num_items_in_batch=count).loss
        mean = model(**batch).loss
        found = mmbert.pack(model)(**batch, num_items_in_batch=count).loss
        assert difference(found, expected) <= 1e-6
        # transformers before 4.53 ignores it here, and so do we.
        assert (difference(expected, mean) > 0.1) == (VERSION.release >= (4, 53))
        mmbert.unpack(model)


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM])
def test_copies_and_pickles_are_packed_and_independent(kind: str) -> None:
    model = mmbert.pack(live_model(kind))
    model(**mixed(kind))
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(stream, weights_only=False),
    ]
    unpacked = live_model(kind)
    with torch.no_grad():
        for parameter in [*model.parameters()]:
            parameter.zero_()  # the copies have weights of their own
    for other in copies:
        assert other.forward is not model.forward
        assert other.forward.model is other
        assert_same(train(other, mixed(kind)), train(unpacked, mixed(kind)))
        assert "forward" not in mmbert.unpack(other).__dict__


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM])
def test_new_weights_are_used(kind: str) -> None:
    source = live_model(kind, seed=8)

    def assign(model: Any) -> None:
        model(**mixed(kind))  # with the weights before
        model.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
        model.tie_weights()

    packed, unpacked, _ = results(kind, assign)
    assert_same(packed, unpacked)
    assert difference(packed.loss, train(live_model(kind), mixed(kind)).loss) > 1e-3


@pytest.mark.parametrize("size", [150, 260])
@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM])
def test_resized_embeddings(kind: str, size: int) -> None:
    batch = padded([20, 4])
    batch["input_ids"] %= 150
    if kind == MASKED_LM:
        batch["labels"] = batch["input_ids"].clone()
        batch["labels"][~batch["attention_mask"].bool()] = -100
    found = []
    for is_packed in (True, False):
        model = live_model(kind)
        if is_packed:
            mmbert.pack(model)
        model.resize_token_embeddings(size)
        with torch.no_grad():  # new rows are random
            model.get_input_embeddings().weight[150:] = 0.1
        found.append(train(model, batch))
    assert_same(*found)


def test_frozen_layers() -> None:
    def freeze(model: Any) -> None:
        model.embeddings.requires_grad_(False)
        model.layers[:2].requires_grad_(False)

    packed, unpacked, _ = results(ENCODER, freeze)
    assert_same(packed, unpacked)
    assert "embeddings.tok_embeddings.weight" not in packed.gradients
    assert "layers.2.mlp.Wi.weight" in packed.gradients


def test_everything_frozen_but_the_head() -> None:
    packed, unpacked, _ = results(TOKENS, lambda model: model.model.requires_grad_(False))
    assert_same(packed, unpacked)


def test_nothing_new_is_seen(tmp_path: Path) -> None:
    model, unpacked = live_model(MASKED_LM), live_model(MASKED_LM)
    mmbert.pack(model)
    train(model, mixed(MASKED_LM))
    assert list(model.state_dict()) == list(unpacked.state_dict())
    assert [*dict(model.named_parameters())] == [*dict(unpacked.named_parameters())]
    assert [*dict(model.named_modules())] == [*dict(unpacked.named_modules())]
    assert inspect.signature(model.forward) == inspect.signature(unpacked.forward)
    assert type(model) is type(unpacked)
    model.save_pretrained(tmp_path / "packed")
    unpacked.save_pretrained(tmp_path / "unpacked")
    for file in sorted((tmp_path / "unpacked").iterdir()):
        assert (tmp_path / "packed" / file.name).read_bytes() == file.read_bytes(), file.name


def test_unpacked_again_it_is_what_it_was() -> None:
    model = live_model(MASKED_LM)
    expected = train(model, mixed(MASKED_LM))
    before = set(model.__dict__)
    assert mmbert.unpack(mmbert.pack(model)) is model
    assert set(model.__dict__) == before
    found = train(model, mixed(MASKED_LM))
    assert torch.equal(found.loss, expected.loss)
    assert all(torch.equal(found.gradients[n], g) for n, g in expected.gradients.items())


def test_training_after_inference_mode() -> None:
    model = mmbert.pack(live_model())
    with torch.inference_mode():  # as sentence-transformers encodes: nothing kept may come from it
        model(**mixed())
    assert_same(train(model, mixed()), train(live_model(), mixed()))


def test_no_weights_or_graphs_are_kept_alive() -> None:
    model = mmbert.pack(live_model())
    with torch.autocast("cpu", torch.bfloat16):
        model(**mixed())
    (twin,) = model.forward.twins._idle
    assert all(parameter is None for _, parameter in twin.named_parameters())
    assert not list(twin.parameters())


def test_steps_of_an_optimizer() -> None:
    losses = {}
    for packed in (False, True):
        model, batch = live_model(SEQUENCE), mixed(SEQUENCE)
        if packed:
            mmbert.pack(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses[packed] = []
        for _ in range(4):
            loss = model.train()(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses[packed].append(float(loss.detach()))
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][-1] < losses[True][0]


@pytest.mark.skipif(QUESTIONS not in KINDS, reason="transformers before 4.51 has none")
def test_answers_of_padded_texts() -> None:
    model, batch = live_model(QUESTIONS).eval(), padded(LENGTHS["mixed"])
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected, found = model(**batch), mmbert.pack(model)(**batch)
    assert difference(found.start_logits[real], expected.start_logits[real]) <= 2e-6
    assert difference(found.end_logits[real], expected.end_logits[real]) <= 2e-6
    assert not model.forward.detours.counts

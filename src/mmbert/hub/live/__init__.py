"""Our packed encoder inside a live Hugging Face ModernBERT, behind `mmbert.pack`.

- `pack`: puts it in, takes it out.
- `models`: the models that are known, alone or inside sentence-transformers.
- `configuration`: the encoder's configuration, from a live model.
- `refusals`: what would be computed wrongly, refused by name.
- `padding`: padded batches to packed rows and back.
- `twin`: our encoder without weights of its own, pointed at the live ones for every call.
- `forward`, `heads`: what stands in for `forward` of the encoder and of models with a head.
- `detours`: calls that go the unpacked way, logged by name.
- `validation`: packed against unpacked on a batch.
"""

from mmbert.hub.live.pack import pack, unpack

__all__ = ["pack", "unpack"]

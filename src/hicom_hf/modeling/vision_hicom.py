"""The two SigLIP towers: frames and instructions into one space.

Letters: n frames, H/W patch rows and columns, D width, V instructions, L = 64 instruction tokens, S image side in pixels.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from transformers import SiglipTextModel, SiglipVisionModel

Encoded = tuple[torch.Tensor, torch.Tensor]
_KNOWN: ContextVar[dict[tuple, Encoded] | None] = ContextVar("known", default=None)


class HiComVisionTower(SiglipVisionModel):
    """SigLIP vision with the two kinds of features that HICom reads; takes the weights of any SigLIP checkpoint.

    Features: input of the last layer (hidden state -2). Aligned features: y + MLP(LN(y)), y the output of the last layer
    after the final norm, LN and MLP those of the pooling head, applied to every patch; they lie in the space of SigLIP's text
    embedding. The head's probe and attention are kept but not used.

    Source: paper, appendix C.1 (the "additional projector" of table A6); official release, layers and head.
    """

    def forward(self, pixel_values: torch.Tensor, aligned: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode frames.

        Args:
            pixel_values: (n, 3, S, S), normalised.
            aligned: also compute the aligned features; without them the last layer is not run.

        Returns:
            Features and aligned features (or None), each (n, H, W, D).
        """
        side = pixel_values.shape[-1] // self.embeddings.patch_embedding.kernel_size[0]
        hidden = self.embeddings(pixel_values)
        for layer in self.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        features = hidden.unflatten(1, (side, side))  # (n, H, W, D)
        if not aligned:
            return features, None
        hidden = self.post_layernorm(self.encoder.layers[-1](hidden, None))
        aligned_features = hidden + self.head.mlp(self.head.layernorm(hidden))
        return features, aligned_features.unflatten(1, (side, side))


class HiComInstructionEncoder(SiglipTextModel):
    """SigLIP text, every position through the tower's projection; takes the weights of any SigLIP checkpoint.

    Source: paper, section 3.1; official release (pooled: the last of 64 positions, padding included).
    """

    def forward(self, input_ids: torch.Tensor) -> Encoded:
        """Encode instructions.

        Args:
            input_ids: (V, L), padded to SigLIP's full length, without a mask.

        Returns:
            Pooled (V, D) and tokens (V, L, D).
        """
        known = None if torch.compiler.is_compiling() or torch.is_grad_enabled() else _KNOWN.get()
        if known is None or input_ids.device.type != "cpu":  # reading ids from a GPU makes the host wait
            return self._encode(input_ids)
        key = (id(self), input_ids.shape, input_ids.numpy().tobytes())
        if key not in known:
            known[key] = self._encode(input_ids)
        return known[key]

    def _encode(self, input_ids: torch.Tensor) -> Encoded:
        tokens = self.head(super().forward(input_ids=input_ids).last_hidden_state)
        return tokens[:, -1], tokens


@contextmanager
def instructions_encoded_once() -> Iterator[None]:
    """Inside of the `with`, this thread encodes equal instructions once, on a CPU and without gradients: the frames that a
    question chooses are compressed for the same words. The weights must stay as they are meanwhile, until the outermost ends."""
    known = _KNOWN.get()
    token = _KNOWN.set({} if known is None else known)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def encode_in_chunks(
    tower: HiComVisionTower, pixel_values: torch.Tensor, chunk_size: int, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encode any number of frames, `chunk_size` at a time: memory for 512 frames is that for 32, plus the features kept.

    Args:
        pixel_values: (n, 3, S, S); may lie on another device than the tower, chunks are moved one by one.

    Returns:
        As `HiComVisionTower.forward`.
    """
    weight = tower.embeddings.patch_embedding.weight
    kept = None
    for start in range(0, len(pixel_values), chunk_size):
        chunk = pixel_values[start : start + chunk_size]
        # Offloaded weights are on "meta" until their hook runs; the hook then moves the input as well.
        encoded = tower(chunk if weight.is_meta else chunk.to(weight.device, non_blocking=True), aligned=aligned)
        if len(chunk) == len(pixel_values):
            return encoded
        if kept is None:  # written in place, so that the features exist once
            kept = [part.new_empty(len(pixel_values), *part.shape[1:]) for part in encoded if part is not None]
        for whole, part in zip(kept, encoded, strict=False):
            whole[start : start + chunk_size] = part
    if kept is None:
        raise ValueError("there are no frames to encode")
    return kept[0], kept[1] if aligned else None


def tower_fingerprint(tower: torch.nn.Module) -> str:
    """A digest of the weights of a vision tower, their type included."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def recorded_layers(
    tower: HiComVisionTower, hidden_states: bool, attentions: bool
) -> Iterator[dict[str, tuple[torch.Tensor | None, ...]]]:
    """Records what SigLIP's layers give while this thread encodes frames inside of the `with`.

    Args:
        hidden_states: record the embeddings and the output of each layer.
        attentions: record the weights of each layer, which only "eager" attention computes.

    Yields:
        A dictionary that is filled at the end, with what is asked for: `hidden_states`, (n, H * W, D) each, and `attentions`,
        (n, heads, H * W, H * W) or None each; one more hidden state than there are layers.
    """
    thread, recorded = threading.get_ident(), {}
    layers = list(cast(torch.nn.ModuleList, tower.encoder.layers))
    places: dict[str, list[torch.nn.Module]] = {}
    if hidden_states:
        places["hidden_states"] = [tower.embeddings, *layers]
    if attentions:
        places["attentions"] = [cast(torch.nn.Module, layer.self_attn) for layer in layers]
    chunks: dict[str, list[list[torch.Tensor | None]]] = {name: [[] for _ in at] for name, at in places.items()}

    def keep(chunks_of_layer: list[torch.Tensor | None]):
        def hook(module, arguments, output):
            if threading.get_ident() == thread:  # another thread may encode with the same tower
                chunks_of_layer.append(output[1] if isinstance(output, tuple) else output)

        return hook

    handles = [
        module.register_forward_hook(keep(chunks[name][number]))
        for name, modules in places.items()
        for number, module in enumerate(modules)
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
    for name, layers in chunks.items():
        recorded[name] = tuple(_joined(parts) for parts in layers)


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    """One tensor of those of all chunks, None if the layer gave none."""
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None

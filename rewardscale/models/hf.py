"""Hugging Face checkpoints of Llama and Qwen3 backbones and reward models: weights in and out.

Weights are read tensor by tensor, and of each tensor only the part that a local device holds, straight into the
sharded tree: no host ever holds the model besides its own devices' share and one piece on its way. Only safetensors
are read: pickle files can run code.

    theirs                                         ours
    model.embed_tokens.weight [V, D]               embedding [V padded, D]
    model.layers.N.self_attn.q_proj.weight [Hd, D] blocks attention q [L, D, H, d]
    ...                                            ...
    score.weight [1, D]                            head [D]
"""

import dataclasses
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardscale import hub
from rewardscale.config import ModelConfig
from rewardscale.mesh import host_zero, place
from rewardscale.models import hf_config, reward
from rewardscale.models.hf_config import CheckpointError
from rewardscale.models.hf_names import EMBEDDING, HEAD, expected, ours, theirs

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD_BYTES = 4 * 2**30
_ROWS = 1024
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Tensors of a checkpoint that a reward model has no use for.
_LEFT_OUT = re.compile(r"lm_head\.weight|.*\.rotary_emb\.inv_freq")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its description; weights are still on disk.

    Attributes:
      directory: its folder. config: config.json as read. model: the decoder that it describes.
      architecture: e.g. "Qwen3ForCausalLM". files: where each tensor is. dtype: of the stored embedding.
      revision: the commit, for a checkpoint from the hub.
    """

    directory: Path
    config: Mapping[str, Any]
    model: ModelConfig
    architecture: str
    files: Mapping[str, Path]
    dtype: str
    revision: str | None = None

    @property
    def has_head(self) -> bool:
        """Whether it brings a reward head (a sequence classifier); otherwise `load` draws a fresh one."""
        return self.architecture.endswith(hf_config.CLASSIFIER)

    @property
    def family(self) -> str:
        """ "llama" or "qwen3"."""
        return self.config.get("model_type") or hf_config.family_of(self.config, str(self.directory))

    @property
    def pad_token_id(self) -> int | None:
        """The id that Hugging Face skips to find the rewarded token."""
        return self.config.get("pad_token_id")

    @property
    def context(self) -> int:
        """Longest sequence that the model was made for, tokens."""
        return hf_config.context_of({"model_type": self.family, **self.config})


# --- opening -----------------------------------------------------------------------------------------


def open_checkpoint(directory: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Reads config.json and the tensors' names, shapes and places; no weights.

    Args:
      directory: a folder, or a hub id ("Qwen/Qwen3-0.6B") with the commit in `revision`, downloaded if need be.

    Raises CheckpointError naming the file, key or tensor that is missing, of a wrong shape, or not understood.
    """
    if not Path(directory).is_dir():
        directory = _download(str(directory), revision)
    folder = Path(directory)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: {folder} holds no whole Hugging Face checkpoint"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    model = hf_config.read_config(config, str(path))
    architecture = hf_config.architecture_of(config, str(path))
    files = find_tensors(folder)
    _check_tensors(model, architecture.endswith(hf_config.CLASSIFIER), files, folder)
    dtype = _stored(files[EMBEDDING], EMBEDDING)[1]
    return Checkpoint(folder, config, model, architecture, files, dtype, revision)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hash (32 hex digits) of the weights' files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(set(checkpoint.files.values())):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _download(name: str, revision: str | None) -> Path:
    """A hub checkpoint's local folder. Raises CheckpointError for what is neither a folder nor a pinned hub id."""
    try:
        return hub.snapshot(name, revision, files=["*.safetensors", "*.json", "*.jinja"])
    except hub.HubError as error:
        raise CheckpointError(str(error)) from error


def find_tensors(folder: Path) -> dict[str, Path]:
    """The file of each tensor, by the index or the files themselves."""
    index = folder / INDEX
    if index.exists():
        try:
            listed = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}") from error
        if (folder / SINGLE).exists() and SINGLE not in listed.values():
            raise CheckpointError(
                f"{folder} holds {SINGLE} and an {INDEX} that does not name it: two sets of weights, of which some "
                "libraries take the first and some the second; remove the stale one"
            )
        missing = sorted({file for file in listed.values() if not (folder / file).exists()})
        if missing:
            raise CheckpointError(
                f"{index} names {', '.join(missing)}, and {folder} lacks it: download it again"
            )
        return {name: folder / file for name, file in listed.items()}
    single = folder / SINGLE
    if single.exists():
        with open_tensors(single) as file:
            return dict.fromkeys(file.keys(), single)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds {', '.join(pickles)} and no safetensors. Pickle files can run code when they are read, so "
            "they are refused: save the model anew with transformers, save_pretrained(..., safe_serialization=True)"
        )
    raise CheckpointError(f"{folder} holds neither {INDEX} nor {SINGLE}")


def _check_tensors(model: ModelConfig, has_head: bool, files: Mapping[str, Path], folder: Path) -> None:
    """Every tensor that we need is there with its shape, and no other."""
    wanted = expected(model)
    if not has_head:
        del wanted[HEAD]
    missing = sorted(set(wanted) - set(files))
    if missing:
        hint = ""
        if HEAD in missing:
            hint = " (a classifier without its head; if it was saved as a language model, say so in 'architectures')"
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors, the first {missing[0]}{hint}")
    unknown = sorted(name for name in set(files) - set(wanted) if not _LEFT_OUT.fullmatch(name))
    if unknown:
        raise CheckpointError(
            f"{folder} holds {len(unknown)} tensors that this model has no place for, the first {unknown[0]}: "
            "config.json and weights do not belong together, or the model has parts that are not computed here"
        )
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in wanted:
        by_file[files[name]].append(name)
    for path, names in by_file.items():
        with open_tensors(path) as file:
            present = set(file.keys())
            for name in names:
                if name not in present:
                    raise CheckpointError(f"{path} lacks tensor {name}, which {INDEX} says it holds")
                found = tuple(file.get_slice(name).get_shape())
                if found != wanted[name]:
                    raise CheckpointError(
                        f"{path}: tensor {name} has shape {found}, and config.json asks for {wanted[name]}"
                    )


# --- weights in --------------------------------------------------------------------------------------


def load(checkpoint: Checkpoint, mesh: Mesh, *, dtype: str = "float32", head_seed: int = 0) -> reward.Params:
    """The checkpoint's weights on `mesh`, sharded as reward.Specs says.

    Matrices and the embedding are stored as `dtype` ("float32" or "bfloat16"), norm scales and the head always as
    float32. A checkpoint without a head gets one drawn from N(0, 1 / (width + 1)^2) by `head_seed`; an existing head
    is kept as it is. The embedding's rows past the vocabulary are zero.

    Raises CheckpointError naming a tensor that is not finite or a file that cannot be read.
    """
    model, whole = checkpoint.model, reward.abstract(checkpoint.model)
    placed = reward.shardings(mesh, whole)

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
        keys = tuple(entry.key for entry in path)
        kept = np.dtype(np.float32 if keys[-1] in ("scale", "head") else _numpy_dtype(dtype))
        if keys == ("head",) and not checkpoint.has_head:
            return place(reward.draw((head_seed,), "head", leaf.shape, model.head_sd), sharding)
        return _load_leaf(checkpoint, keys, leaf.shape, sharding, kept)

    return jax.tree_util.tree_map_with_path(one, whole, placed)


def _load_leaf(
    checkpoint: Checkpoint,
    path: tuple[str, ...],
    shape: tuple[int, ...],
    sharding: NamedSharding,
    dtype: np.dtype,
) -> jax.Array:
    """One of our arrays, each local device's part read from the files by itself."""
    names, inputs = theirs(path, checkpoint.model)
    read: dict[tuple[tuple[int, int], ...], list[Any]] = defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        parts = [range(size)[part] for part, size in zip(index or (), shape, strict=True)]
        bounds = tuple((part.start, part.stop) for part in parts)
        read[bounds].append(device)
    pieces = []
    with ExitStack() as stack:  # files are mapped for one array's reading, so their pages do not pile up
        opened = {
            file: stack.enter_context(open_tensors(file)) for file in {checkpoint.files[n] for n in names}
        }
        for bounds, devices in read.items():
            piece = np.zeros([b - a for a, b in bounds], dtype)
            if path[0] == "blocks":
                for layer in range(*bounds[0]):
                    source = opened[checkpoint.files[names[layer]]]
                    piece[layer - bounds[0][0]] = _part(source, names[layer], shape[1:], bounds[1:], inputs)
            else:
                source = opened[checkpoint.files[names[0]]]
                for a in range(*bounds[0], _ROWS):  # a table is read a few rows at a time
                    part = (a, min(a + _ROWS, bounds[0][1]))
                    found = _part(source, names[0], shape, (part, *bounds[1:]), inputs)
                    piece[a - bounds[0][0] :][: len(found)] = found
            pieces += [jax.device_put(piece, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _part(
    file: Any, name: str, shape: Sequence[int], bounds: Sequence[tuple[int, int]], inputs: int
) -> np.ndarray:
    """`bounds` of our array of one layer, read from their tensor; rows past its end (padding) are left out."""
    stored = file.get_slice(name)
    if not inputs:
        if len(shape) == 1:  # a norm's scale, or the head [1, D]
            found = file.get_tensor(name).reshape(-1)[slice(*bounds[0])]
        else:
            rows, columns = bounds
            top = stored.get_shape()[0]
            found = stored[min(rows[0], top) : min(rows[1], top), slice(*columns)]
    else:
        # Their [outputs, inputs] from our [inputs..., outputs...]: the first axis of each group may be split.
        into, out = bounds[:inputs], bounds[inputs:]
        into_rest, out_rest = math.prod(shape[1:inputs]), math.prod(shape[inputs + 1 :])
        for (a, b), size in zip([*into[1:], *out[1:]], [*shape[1:inputs], *shape[inputs + 1 :]], strict=True):
            if (a, b) != (0, size):
                raise CheckpointError(f"{name}: only the first axis of inputs or outputs can be split")
        block = stored[
            out[0][0] * out_rest : out[0][1] * out_rest, into[0][0] * into_rest : into[0][1] * into_rest
        ]
        found = block.T.reshape([b - a for a, b in bounds])
    if not np.isfinite(found).all():
        raise CheckpointError(f"tensor {name} holds NaN or infinite values: the checkpoint is damaged")
    return found


# --- weights out -------------------------------------------------------------------------------------


def export(
    directory: Path,
    params: reward.Params,
    model: ModelConfig,
    config: Mapping[str, Any],
    *,
    dtype: str = "float32",
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that AutoModelForSequenceClassification.from_pretrained loads, rewards unchanged.

    Args:
      directory: an empty or absent folder. params: of `reward`, on a mesh or on the host, adapters merged.
      config: of `hf_config.as_classifier` or `hf_config.write_config`. dtype: of all tensors, "float32" or "bfloat16".
      files: what else belongs in it: the tokenizer's files (data/chat.py), by name.
      shard_bytes: weights are split into files of at most about this size.

    config.json is written last: a folder without it is not whole. Padding of the vocabulary is stripped. On several
    hosts all must call it; the first one writes.

    Raises CheckpointError on a folder that already holds something.
    """
    directory = Path(directory)
    writes = host_zero()
    if writes:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise CheckpointError(f"{directory} is not empty; name a new folder to write the model into")
    names = list(expected(model))
    sizes = {name: math.prod(shape) * _numpy_dtype(dtype).itemsize for name, shape in expected(model).items()}
    groups = _groups(names, sizes, shard_bytes)
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: _their_tensor(params, model, name, _numpy_dtype(dtype)) for name in group}
        if writes:
            save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    if not writes:
        return
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for name, content in (files or {}).items():
        (directory / name).write_bytes(content)
    described = {**config, "torch_dtype": dtype}
    (directory / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


def _groups(names: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, in groups of at most `limit` bytes (a larger tensor has a group of its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in names:
        if groups[-1] and filled + sizes[name] > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += sizes[name]
    return groups


def _their_tensor(params: reward.Params, model: ModelConfig, name: str, dtype: np.dtype) -> np.ndarray:
    """One tensor of theirs on the host, gathered from the mesh."""
    path, layer, inputs = ours(name)
    leaf: Any = params
    for key in path:
        leaf = leaf[key]
    found = _on_host(leaf, layer)
    if inputs:
        found = found.reshape(math.prod(found.shape[:inputs]), -1).T
    elif name == EMBEDDING:
        found = found[: model.vocab_size]
    elif name == HEAD:
        found = found[None]
    return np.ascontiguousarray(found.astype(dtype))


def _on_host(leaf: Any, layer: int | None = None) -> np.ndarray:
    """An array, or one layer of it, whole on this host."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        assert isinstance(leaf.sharding, NamedSharding)
        whole = NamedSharding(leaf.sharding.mesh, P())
        pick = jax.jit(lambda x: x if layer is None else x[layer], out_shardings=whole)
        return np.asarray(pick(leaf).addressable_data(0))
    return np.asarray(leaf if layer is None else leaf[layer])


# --- files -------------------------------------------------------------------------------------------


def open_tensors(path: Path) -> Any:
    """A safetensors file; reading its header checks that it is whole."""
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): copy or download it again"
        ) from error


def _stored(path: Path, name: str) -> tuple[tuple[int, ...], str]:
    """Shape and type of a tensor on disk. Raises CheckpointError on a type that is no weight's."""
    with open_tensors(path) as file:
        found = file.get_slice(name)
        kind = found.get_dtype()
        if kind not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name} has type {kind}; known are {', '.join(_DTYPES)}")
        return tuple(found.get_shape()), _DTYPES[kind]


def _numpy_dtype(name: str) -> np.dtype:
    if name not in ("float32", "bfloat16"):
        raise CheckpointError(f"dtype {name!r} must be 'float32' or 'bfloat16'")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else np.float32)

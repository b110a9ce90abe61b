"""Host memory while a large checkpoint is read onto a mesh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rewardscale.models import hf, hf_config, hf_names, presets
from tests import small

REPO = Path(__file__).parents[2]
SHARD = 2**30
# Peak resident memory above what the process holds before it loads, and the loaded tree, in bytes. Memory of its
# own: pages of mapped files belong to the kernel's cache.
SCRIPT = """
import json, sys, threading, time
import jax
from rewardscale import mesh
from rewardscale.models import hf
def resident():
    return 1024 * int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0])
devices = mesh.make_mesh((1, 8, 1))
jax.device_put(1).block_until_ready()
before, peak, done = resident(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
params = jax.block_until_ready(hf.load(hf.open_checkpoint(sys.argv[1]), devices, dtype="bfloat16"))
done.set()
watcher.join()
copy = sum(piece.data.nbytes for leaf in jax.tree.leaves(params) for piece in leaf.addressable_shards)
print(json.dumps({"peak": peak[0] - before, "copy": copy}))
"""


@pytest.mark.parametrize(
    "layers", [pytest.param(3, id="0.5 GB"), pytest.param(40, id="4 GB", marks=pytest.mark.slow)]
)
def test_loading_holds_one_piece_beside_the_sharded_copy(tmp_path: Path, layers: int) -> None:
    deep = presets.by_depth(16, vocab_size=32_000)
    model = small.varied(deep, layers=layers, width=2048, mlp_width=5504)
    largest = write_large(
        tmp_path / "m", hf_names.expected(model), shard=SHARD if layers == 40 else SHARD // 8
    )
    config = hf_config.write_config(model, pad_token_id=0, context=64, dtype="bfloat16")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "m")],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    peak, copy = seen["peak"] / 2**30, seen["copy"] / 2**30
    print(f"peak {peak:.2f} GiB, sharded copy {copy:.2f}, largest file {largest / 2**30:.2f}")
    assert seen["peak"] <= seen["copy"] + 1.5 * largest


def write_large(directory: Path, shapes: dict[str, tuple[int, ...]], shard: int) -> int:
    """Writes random bfloat16 weights in files of at most `shard` bytes; the bytes of the largest."""
    directory.mkdir()
    tile = (np.random.default_rng(0).standard_normal(2**20) * 0.02).astype(ml_dtypes.bfloat16)
    sizes = {name: 2 * int(np.prod(shape)) for name, shape in shapes.items()}
    weight_map = {}
    for number, group in enumerate(hf._groups(list(shapes), sizes, shard), 1):
        file = f"model-{number:05d}.safetensors"
        save_file({name: np.resize(tile, shapes[name]) for name in group}, directory / file)
        weight_map |= dict.fromkeys(group, file)
    (directory / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return max(path.stat().st_size for path in directory.glob("*.safetensors"))

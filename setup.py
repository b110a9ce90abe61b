"""How `rewardscale` is installed. The Makefile calls this with the exact versions of constraints.txt.

Beside each dependency stands why it was chosen and, in brackets, its licence.
Ranges say what can work; constraints.txt says what was tested.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """`__version__` of rewardscale/__init__.py, read as text: importing would need the dependencies."""
    text = (ROOT / "rewardscale" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('rewardscale/__init__.py needs a line `__version__ = "X.Y.Z"`')
    return found.group(1)


INSTALL_REQUIRES = [
    # --- the accelerator stack -----------------------------------------------------------------------
    # One program for CPU, GPU and TPU pods, compiled; 0.11.2 mends silently wrong cuDNN packed attention
    # with grouped queries, and brings jax.shard_map, jax.set_mesh and AxisType as they are used here
    # [Apache-2.0]
    "jax>=0.11.2",
    # NNX modules as plain pytrees; 0.12.8 and older break on jax >= 0.11.2 [Apache-2.0]
    "flax>=0.12.9",
    # AdamW and its schedules as pure functions, learning rate as a traced input [Apache-2.0]
    "optax>=0.2.8",
    # Asynchronous checkpoints of sharded arrays, restored onto another mesh; the v1 API [Apache-2.0]
    "orbax-checkpoint>=0.12.8",
    # --- data ----------------------------------------------------------------------------------------
    # Deterministic random-access pipelines: a batch is a function of the step, whatever the number of
    # workers or hosts [Apache-2.0]
    "grain>=0.2.18",
    # The file format of a corpus: compressed records, random access by row number [Apache-2.0]
    "array_record>=0.8.3",
    # Manifests, ledgers and results tables: Parquet in and out, columns of tens of millions of rows on
    # one machine, no index to keep in step [MIT]
    "polars>=1.30",
    # JSON of public sets at a quarter of the time, strict about Unicode [Apache-2.0 or MIT]
    "orjson>=3.11",
    # Public sets come as .jsonl.zst too [BSD-3-Clause]
    "zstandard>=0.23",
    # Other stores and public sets at URLs through one interface; each store's own package (adlfs, ...; s3fs and gcsfs
    # for stages on a cluster) is installed where it is used [BSD-3-Clause]
    "fsspec>=2025.3",
    # s3:// and gs:// with conditional puts, which leases need, and retries; orbax needs it anyway, and no vendor's
    # client must fit beside it [Apache-2.0]
    "tensorstore>=0.1.86",
    # Fast tokenizers of the public model families, and of tests, without PyTorch [Apache-2.0]
    "tokenizers>=0.22",
    # Weights in and out: the one format of Hugging Face that holds arrays and no code [Apache-2.0]
    "safetensors>=0.6",
    # Chat templates are Jinja; rendered in its sandbox by the rules of transformers [BSD-3-Clause]
    "jinja2>=3.1.5",
    # Public checkpoints by name, with resumed downloads and a local cache [Apache-2.0]
    "huggingface_hub>=1.0",
    # --- serving -------------------------------------------------------------------------------------
    # Requests, routes and lifespan without a framework's weight [BSD-3-Clause]
    "starlette>=1.0",
    # The ASGI server in pure Python, with graceful shutdown [BSD-3-Clause]
    "uvicorn>=0.35",
    # /metrics in the format that every monitor reads [Apache-2.0]
    "prometheus-client>=0.22",
    # --- asking LLM judges ---------------------------------------------------------------------------
    # HTTP at several times the calls a core of the vendors' SDKs; the wire format is plain JSON [Apache-2.0 and MIT]
    "aiohttp>=3.12",
    # --- people ----------------------------------------------------------------------------------------
    # The page on which people judge pairs: routes and forms on Starlette [MIT]
    "fastapi>=0.140",
    # Reads its forms [Apache-2.0]
    "python-multipart>=0.0.27",
    # Responses are Markdown of strangers: CommonMark to tokens, HTML off, every rule ours to replace [MIT]
    "markdown-it-py>=4.0",
    # Text that is HTML already, and text that is not, as types of their own [BSD-3-Clause]
    "markupsafe>=3.0",
    # A Label Studio server's few endpoints, one call at a time; tests ask our own servers with it [BSD-3-Clause]
    "httpx>=0.28",
    # --- configuration -------------------------------------------------------------------------------
    # Config files that are Python and locked: a typo is an error; usual in JAX projects [Apache-2.0]
    "ml-collections>=1.1.0",
    # --- science and figures -------------------------------------------------------------------------
    # Arrays on the host [BSD-3-Clause]
    "numpy>=2.2",
    # Least squares, L-BFGS and distributions for curve fits, convex models and their errors [BSD-3-Clause]
    "scipy>=1.15",
    # Figures as SVG, PDF and PNG from one description [matplotlib licence, BSD-compatible]
    "matplotlib>=3.10",
    # --- following a run -----------------------------------------------------------------------------
    # Progress bars with the time left [MPL-2.0 and MIT]
    "tqdm>=4.66",
    # Curves of many runs side by side, off by default; works offline without an account [MIT]
    "wandb>=0.31",
    # wandb's sweep definitions are YAML; wandb needs it too [MIT]
    "pyyaml>=6",
]

# Compiles for TPU pods on a machine that has none, so that "it compiles for 16 chips and fits" is a test.
# jax[tpu] names the release that goes with each jax; constraints.txt pins that same one.
# [Google Cloud Platform Terms of Service: free to install, not open source; hence never in the core]
AOT = ["libtpu>=0.0.50"]

# Drives a browser that is installed already (Debian's chromium), to test the annotation page [Apache-2.0]
BROWSER = ["playwright>=1.60"]

# Stages of a corpus build on a cluster: tasks alone, no durable state in it [Apache-2.0]
RAY = ["ray>=2.50"]

# JobSets of a sweep's cells, by the official client [Apache-2.0]
KUBERNETES = ["kubernetes>=37"]

# Preference sets in TFDS format, read and written, as ArrayRecord and without TensorFlow [Apache-2.0]
TFDS = ["tensorflow-datasets>=4.9.10"]

# Runs a notebook from the command line, and the kernel it runs in [both BSD-3-Clause]
NOTEBOOK = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]

EXTRAS = {
    # jax for the machine at hand. Plain jax runs on the CPU.
    "tpu": ["jax[tpu]>=0.11.2"],
    "cuda": ["jax[cuda13]>=0.11.2"],
    "aot": AOT,
    "notebook": NOTEBOOK,
    "ray": RAY,
    "kubernetes": KUBERNETES,
    "browser": BROWSER,
    # What benchmarks/dedup.py is measured against [MIT; BSD-2-Clause]
    "peers": ["rensa>=0.5", "xxhash>=3.5"],
    "tfds": TFDS,
    "test": [
        *AOT,
        *BROWSER,
        *NOTEBOOK,
        *RAY,
        *KUBERNETES,
        *TFDS,
        # The JobSet API's published models, to check manifests by [Apache-2.0]
        "kubeflow_trainer_api>=2.3",
        "pytest>=8.4",  # [MIT]
        "pytest-xdist>=3.6",  # one test process a core: make test PYTEST_ARGS="-n 2" [MIT]
        "faiss-cpu>=1.12",  # exact nearest neighbours by someone else, what ours must equal [MIT]
        "hypothesis>=6.100",  # properties of packing, subsets and fits, not examples alone [MPL-2.0]
        "ruff>=0.14",  # linter, one binary [MIT]
        # Type checker. The wheel carries pyright itself and the extra carries Node.js as a wheel, so that
        # nothing is fetched when it runs [both MIT]
        "pyright[nodejs]>=1.1.400",
    ],
}

setup(
    name="rewardscale",
    version=read_version(),
    description="Scaling laws of reward models: more pairs, better pairs, or a bigger backbone?",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.12",
    packages=find_packages(include=["rewardscale", "rewardscale.*"]),
    package_data={
        "rewardscale.evaluation": ["*.json"],
        "rewardscale.curation.annotators.llm": ["prompts/*.md"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)

"""What every test runs under: CPU with two devices, strict dtype promotion, checked shapes, a compilation cache.

Set before JAX is imported, and in the environment, so that the commands that tests start in other processes share it.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_MAPS = 25_000
CACHE_LIMIT = 1 << 30  # bytes; old programs are never asked for again, so past this the cache starts afresh


def _cache_dir() -> Path:
    # One a worker: JAX writes an entry in place, so a neighbour could read half of it.
    return ROOT / ".pytest_cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "main")


def _prepare_cache() -> None:
    cache = _cache_dir()
    if cache.is_dir() and sum(entry.stat().st_size for entry in os.scandir(cache)) > CACHE_LIMIT:
        shutil.rmtree(cache)
    cache.mkdir(parents=True, exist_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # as runs set it: what is compiled before one serves after it
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # so that sharding is exercised
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else every notebook kernel warns
_prepare_cache()

import hypothesis
import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

# Annotations are checked at run time where arrays come from callers. Modules whose dataclasses are pytrees stay out:
# JAX rebuilds those with placeholders for leaves, which no annotation fits. SLT_TYPECHECK=0 switches this off.
CHECKED = ["slt.theory", "slt.estimators", "slt.transitions"]
if os.environ.get("SLT_TYPECHECK", "1") != "0":
    install_import_hook(CHECKED, "beartype.beartype")

RUN = pytest.StashKey[int]()  # tests of this process so far

hypothesis.settings.register_profile("slt", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("slt")


def pytest_configure(config: pytest.Config) -> None:
    """The default suite compiles far more than it runs; the long one runs."""
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(autouse=True)
def _promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mixing dtypes is an error, save in tests marked `standard_promotion` (NumPyro and some of BlackJAX need it)."""
    mode = "standard" if request.node.get_closest_marker("standard_promotion") else "strict"
    with jax.numpy_dtype_promotion(mode):
        yield


@pytest.fixture
def seed() -> int:
    """The one seed of the tests: not hunted for, not changed to make a test pass."""
    return 0


@pytest.fixture
def key(seed: int) -> jax.Array:
    """A JAX key from the seed; fold it or split it, never use it twice."""
    return jax.random.key(seed)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A NumPy generator from the seed."""
    return np.random.default_rng(seed)


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _programs_dropped(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every program holds memory maps, of which Linux gives a process 65,530: past some, all are dropped."""
    yield
    request.config.stash[RUN] = run = request.config.stash.get(RUN, 0) + 1
    maps = Path("/proc/self/maps")
    if run % 10 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _figures_closed() -> Iterator[None]:
    """Close what a test drew; pyplot is not imported for tests that draw nothing."""
    yield
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")

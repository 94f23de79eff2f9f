"""The native module: loaded once, or the reason why there is none.

Owns the decision whether C++ kernels are at hand. Must not know what they compute (ops/cpu does).

Attributes:
    module: slipstream._native, or None.
    reason: why `module` is None; empty when it is loaded.

The environment variable SLIPSTREAM_NATIVE=0 leaves the module out (diagnostics).
"""

import importlib
import importlib.machinery
import os
from pathlib import Path
from types import ModuleType

VARIABLE = "SLIPSTREAM_NATIVE"
_PACKAGE_FOLDER = Path(__file__).parent.parent


def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get(VARIABLE) == "0":
        return None, f"disabled by {VARIABLE}=0"
    try:
        return importlib.import_module("slipstream._native"), ""
    except ModuleNotFoundError as error:
        if error.name != "slipstream._native":
            raise
        return None, _absence()
    except ImportError as error:
        return None, f"slipstream._native cannot be loaded: {error}"


def _absence() -> str:
    others = sorted(path.name for path in _PACKAGE_FOLDER.glob("_native.*") if path.suffix in (".so", ".pyd", ".dylib"))
    if others:
        wanted = importlib.machinery.EXTENSION_SUFFIXES[0]
        return f"slipstream was built for another Python ({', '.join(others)}; this one needs _native{wanted}); reinstall it"
    return "slipstream was installed without a C++ compiler or Python headers; install both and reinstall for the fast kernels"


module, reason = _load()


def seconds() -> float:
    """Time that this thread has spent in native ops since it began; 0 without them."""
    return module.seconds() if module is not None else 0.0

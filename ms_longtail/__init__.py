"""Long-tailed image recognition on MindSpore."""

from . import runtime

__version__ = "0.1.0"
__all__ = ["__version__", "runtime"]

runtime.quiet_logs()
runtime.tune_cpu()

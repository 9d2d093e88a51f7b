"""pycds-auto: every Python start and import on this machine, faster, and nothing else changed.

There is nothing to call: installing the package is enough. ``python -m pycds_auto status`` shows the cache,
``PYCDS_DISABLE=1`` leaves it out.
"""

from pycds_auto import _loader  # in sys.modules since the start: this binds it to the package, too

activate, stats = _loader.activate, _loader.stats

__all__ = ["__version__", "activate", "stats"]
__version__ = "0.1.0"

"""Settings for every test: nothing is fetched from a model hub, nothing is reported to anyone.

They are set here, before any test module is imported, because the libraries read them on import.
Processes that the tests start inherit them.
"""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

_CACHE = tempfile.mkdtemp(prefix="bitsift-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

os.environ["XDG_CACHE_HOME"] = _CACHE  # converted models are not left with whoever runs the tests
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")

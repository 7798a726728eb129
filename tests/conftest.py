"""Settings for every test: nothing is fetched from a model hub, nothing is reported to anyone.

They are set here, before any test module is imported, because the libraries read them on import.
Processes that the tests start inherit them.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

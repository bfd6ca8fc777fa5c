"""Settings of all tests: no hub is asked, tokenizers stay in one process, threads do not spin."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait must not burn the core another process needs: tiny networks under load took
# ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# skada imports POT, which would load TensorFlow for several seconds if it may.
os.environ.setdefault("POT_BACKEND_DISABLE_TENSORFLOW", "1")

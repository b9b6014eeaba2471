"""Importing this imports what every run needs; the jobs of a sweep are forked from a process that has done so."""

import gc
import os
import signal

import rich.progress  # noqa: F401
import torch

import snnrun.launch
import snnrun.run  # noqa: F401

# whoever ends the jobs ends what they were forked from by closing it: it must be there to tell how they ended
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
gc.collect()
gc.freeze()  # what is here is not looked at again, so that the memory stays shared
SAFE = len(os.listdir("/proc/self/task")) == 1 and not torch.cuda.is_initialized()

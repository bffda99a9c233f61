"""A process that has imported everything, and runs each command that it reads in a fork of itself."""

import atexit
import gc
import json
import os
import signal
import sys

import lightning.pytorch  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import pd_lightning.callbacks
import pd_lightning.data
import pd_lightning.module
import pd_lightning.record
import pd_lightning.trainer  # noqa: F401
from pd_lightning.cli import main

gc.freeze()  # what is collected in a fork is copied
for line in sys.stdin:
    arguments, folder, log, environment = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells turn off for what runs behind them
        os.chdir(folder)
        os.environ.update(environment)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = main(arguments)
        atexit._run_exitfuncs()  # as at any exit, but for taking apart everything that was imported
        sys.stdout.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

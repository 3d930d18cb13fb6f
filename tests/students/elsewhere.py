"""Runs code where nothing of ours can be imported: what a student saves is plain sentence-transformers."""

import subprocess
import sys

_BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "retrodistill":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
try:
    import retrodistill
except ImportError as error:
    assert str(error) == "blocked"
else:
    raise AssertionError
import json, torch
torch.set_num_threads(1)
"""


def printed(code):
    """What code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-I", "-c", _BLOCK + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout

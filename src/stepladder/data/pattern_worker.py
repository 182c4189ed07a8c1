"""A process that matches patterns and can be killed: one JSON line `[pattern, text]` in, `true` or `false` out.

Started by path with an isolated interpreter, so it imports nothing but the standard library.
"""

import json
import re
import sys


def serve() -> None:
    """Say that it is there, then answer every line until the pipe closes."""
    print("ready", flush=True)
    for line in sys.stdin:
        pattern, text = json.loads(line)
        print("true" if re.fullmatch(pattern, text) else "false", flush=True)


if __name__ == "__main__":
    serve()

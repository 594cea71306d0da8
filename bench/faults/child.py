"""Uses damaged files, one a line of its input, in a process whose death and memory are watched."""

import json
import resource
import sys
import traceback
from pathlib import Path

from bench.faults.subjects import SUBJECTS, WrongError

#: Address space beyond what is there after the imports: more than is promised.
ROOM = 4 << 30


def main() -> None:
    """Answer each line `{"folder", "target"}` with `[outcome, text, peak memory in bytes]`."""
    name, folder, sound = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    subject = SUBJECTS[name]()
    # whatever is loaded late, is loaded now
    outcome = subject.attempt(folder, sound)
    if outcome != "accepted":
        raise SystemExit(f"{name}: {sound} is sound and was {outcome}")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = [subject.attempt(folder, json.loads(line)), ""]
        except WrongError as error:
            answer = ["WRONG", str(error)]
        except BaseException as error:  # noqa: BLE001 - told to the parent
            where = traceback.extract_tb(error.__traceback__)[-1]
            answer = [
                "LEAKED",
                f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
            ]
        print(json.dumps([*answer, peak_bytes()]), flush=True)


def peak_bytes() -> int:
    """Return the most memory that this process or one of its children held."""
    # ru_maxrss of this process would count that of the one it was forked from
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


if __name__ == "__main__":
    main()

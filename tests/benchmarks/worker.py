"""One client doing one workload once, in a process of its own.

``python -m benchmarks.worker`` with a `Job` as JSON in its argument; prints a `Run`, or what is
missing, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from .clients import CLIENTS
from .task import Job, Task, Unavailable


def work(job: Job) -> dict[str, object]:
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    task = Task(job)
    try:
        task.prepare()
        CLIENTS[job.client].run(task)
    except Unavailable as missing:
        return {"unavailable": str(missing)}
    return asdict(task.watch.run)


if __name__ == "__main__":
    print(json.dumps(work(Job(**json.loads(sys.argv[1])))))

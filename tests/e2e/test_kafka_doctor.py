"""`dynatask doctor` on Kafka: it says which of the two servers is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from servers import Kafka, Redis


def test_doctor_names_the_server_that_is_wrong(shared_kafka: Kafka, new_redis: Callable[..., Redis], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from dynatask import App\n\napp = App('doctor')\n")
    redis = new_redis()

    def doctor(url: str) -> tuple[int, str]:
        env = os.environ | {"DYNATASK_URL": url, "DYNATASK_APP": "app.py", "DYNATASK_ENGINE_TIMEOUT": "3"}
        run = subprocess.run([sys.executable, "-m", "dynatask", "doctor"], cwd=tmp_path, env=env, capture_output=True, text=True)
        return run.returncode, " ".join((run.stdout + run.stderr).split())

    code, text = doctor(f"kafka://{shared_kafka.address}?store={redis.url}")
    assert code == 0 and f"{shared_kafka.address} answers, brokers: 1" in text and "Redis 7." in text, text
    code, text = doctor(f"kafka://127.0.0.1:1?store={redis.url}")
    assert code and "Kafka at 127.0.0.1:1" in text, text
    code, text = doctor(f"kafka://{shared_kafka.address}?store=redis://127.0.0.1:1/0")
    assert code and "Redis at 127.0.0.1:1" in text, text
    redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    code, text = doctor(f"kafka://{shared_kafka.address}?store={redis.url}")
    assert code and "allkeys-lru" in text, text

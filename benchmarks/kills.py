"""SIGKILLs a demo-sized run at random moments, over and over, and counts what was lost or spoiled: nothing may be."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import demo
import tabs
from trimtab.errors import TrimtabError
from trimtab.pack import check
from trimtab.values.store import Store, mismatch
from trimtab.values.tab import TAB_FILE, read_tab


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the demo's command with a run folder and a store of its own."""
    words = [str(folder / "run") if word == str(demo.OUT) else word for word in demo.WORDS]
    environment = {**os.environ, "TRIMTAB_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "trimtab", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def spoiled(folder: Path) -> list[str]:
    """Return every artefact that is not what its hashes say."""
    found = [f"{key}: {mismatch(entry)}" for key, entry in objects(folder) if mismatch(entry)]
    try:
        if (folder / "run" / TAB_FILE).exists():
            read_tab(folder / "run" / TAB_FILE)
        if (folder / "run" / "bundle").exists():
            check(folder / "run" / "bundle")
    except TrimtabError as error:
        found.append(str(error))
    return found


def objects(folder: Path) -> list[tuple[str, Path]]:
    """Return the store's entries."""
    root = folder / "cache" / "store" / "objects"
    return [(entry.name, entry) for entry in root.iterdir()] if root.is_dir() else []


def finished(folder: Path) -> list[str]:
    """Return the candidates that the tab says are finished."""
    path = folder / "run" / TAB_FILE
    return [record["recipe"] for record in read_tab(path).of("candidate")] if path.exists() else []


def torture(kills: int, folder: Path) -> dict[str, int]:
    """Kill, look, go on; then let the run end."""
    chance, known = random.Random(0), list[str]()
    corrupted, lost, done = 0, 0, 0
    while done < kills:
        process = start(folder)
        time.sleep(chance.uniform(0.5, 20.0))
        if process.poll() is not None:
            shutil.rmtree(folder / "run")
            known = []
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        corrupted += len(spoiled(folder))
        now = finished(folder)
        lost += sum(recipe not in now for recipe in known)
        known = now
        print(f"kill {done}: {len(now)} candidates finished, {corrupted} files corrupted, {lost} lost", flush=True)
    status = start(folder).wait()
    warnings = Store(folder / "cache" / "store").warnings
    print(f"the run went on to its end: exit status {status}, store warnings: {warnings or 'none'}")
    return {"kills": done, "corrupted_files": corrupted, "lost_candidates": lost, "final_exit_status": status}


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--kills", type=int, default=30)
    with tempfile.TemporaryDirectory() as place:
        counts = torture(words.parse_args().kills, Path(place))
    tabs.write("kills", [{"name": name, "value": value, "unit": ""} for name, value in counts.items()])

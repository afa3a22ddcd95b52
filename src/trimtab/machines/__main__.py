"""Tells what a remote trimtab asks: `python -m trimtab.machines` prints versions and this machine's facts as JSON."""

import json

from trimtab.machines import here, versions

if __name__ == "__main__":
    print(json.dumps({"versions": versions(), "machine": here().to_json()}))

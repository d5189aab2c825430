#!/usr/bin/env bash
# Unpacks ONNX's official node tests (1,678 models with data) into target/node-tests. Does nothing if they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.21.0 # the last wheel that ships them
target=target/node-tests
[ -d "$target/node" ] && exit 0
download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
python3 -m pip download --quiet --no-deps --dest "$download" "onnx==$version"
python3 - "$download" <<'PYTHON'
import sys, zipfile
from pathlib import Path

download = Path(sys.argv[1])
with zipfile.ZipFile(next(download.glob("onnx-*.whl"))) as wheel:
    wheel.extractall(download, [name for name in wheel.namelist() if name.startswith("onnx/backend/test/data/")])
PYTHON
mkdir -p target
rm -rf "$target" "$target.part"
cp -R "$download/onnx/backend/test/data" "$target.part"
mv "$target.part" "$target"
echo "$(ls "$target/node" | wc -l) node tests are in $target"

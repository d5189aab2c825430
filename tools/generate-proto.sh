#!/usr/bin/env bash
# Regenerates src/onnx/proto.rs and src/onnx/schema.rs from the schema in the PyPI wheel of onnx.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.23.2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download --quiet --no-deps --dest "$folder" "onnx==$version"
python3 -m zipfile -e "$folder"/onnx-*.whl "$folder/wheel"
cargo run --quiet --example generate_proto -- "$folder/wheel/onnx/onnx-ml.proto" "$version"
rustfmt --edition 2024 src/onnx/proto.rs src/onnx/schema.rs

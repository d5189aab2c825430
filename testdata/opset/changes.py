"""Lists every change of an ONNX operator, as `opset operator`, from the schemas of the Python package `onnx`.

    python testdata/opset/changes.py > testdata/opset/changes.txt
"""

from collections import defaultdict

import onnx.defs

versions = defaultdict(set)
for schema in onnx.defs.get_all_schemas_with_history():
    if schema.domain == "":
        versions[schema.name].add(schema.since_version)

changes = sorted((opset, name) for name, opsets in versions.items() for opset in sorted(opsets)[1:])
print(f"# onnx {onnx.__version__}")
for opset, name in changes:
    print(opset, name)

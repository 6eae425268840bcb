"""Runs in the sandbox beside a model's answer: defines it, then calls it for the tests.

It never sees the tests. Values cross as plain data, so nothing of the answer's own making (an
``__eq__`` that is always true, a patched ``print``) reaches the process that judges.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types

_here = os.path.dirname(os.path.abspath(__file__))
_spec = importlib.util.spec_from_file_location("wire", os.path.join(_here, "wire.py"))
assert _spec is not None and _spec.loader is not None
wire = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(wire)


def kind_of(value: object) -> str:
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) else "value"


def main() -> None:
    line = wire.Line(int(sys.argv[1]), int(sys.argv[2]))
    with open(os.path.join(_here, "answer.py"), encoding="utf-8") as stream:
        source = stream.read()
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        exec(compile(source, "answer.py", "exec"), module.__dict__)  # noqa: S102
    except BaseException as error:
        line.send({"failed": f"{type(error).__name__}: {error}"[:300]})
        return
    names = {name: kind_of(value) for name, value in vars(module).items() if name[:2] != "__"}
    line.send({"names": names})
    while True:
        request = line.receive()
        try:
            line.send(serve(module, request))
        except wire.NotPlainError as error:
            line.send({"unplain": str(error)})


def serve(module: types.ModuleType, request: dict[str, object]) -> dict[str, object]:
    value = getattr(module, str(request["name"]))
    if "args" not in request:
        return {"value": wire.pack(value)}
    args = wire.unpack(request["args"])
    named = wire.unpack(request["named"])
    try:
        result = value(*args, **named)
        packed = wire.pack(result)
    except wire.NotPlainError:
        raise
    except BaseException as error:
        return {"raised": [c.__name__ for c in type(error).__mro__], "text": str(error)[:300]}
    # Tests of in-place functions look at their own lists: send back what became of them.
    return {"value": packed, "after": wire.pack(list(args))}


if __name__ == "__main__":
    main()

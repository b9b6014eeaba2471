"""Assembly to machine code, through llvmlite and the disk cache."""

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from snnrun.neuron.kernel.cache import digest, read, write

Function = Callable[[int], None]
_lock = threading.Lock()
_engines: list[Any] = []  # own the code; alive as long as the process


@cache
def _machine() -> tuple[Any, Any, str]:
    """llvmlite, the machine compiled for, and what tells it from others."""
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, codemodel="jitdefault", jit=True
    )
    name = (
        f"{llvmlite.__version__} {llvm.get_default_triple()} {llvm.get_host_cpu_name()} {features}"
    )
    return llvm, machine, name


@cache
def load(source: str) -> Function:
    """The function `run` of an assembly text; called with the address of its words. The lock of Python is released."""
    with _lock:
        llvm, machine, name = _machine()
        file = f"{digest(source, name)}.o"
        code = read(file)
        if code is None:
            module = llvm.parse_assembly(source)
            module.triple = llvm.get_default_triple()
            module.data_layout = str(machine.target_data)
            options = llvm.create_pipeline_tuning_options(speed_level=1)  # it is vectors already
            builder = llvm.create_pass_builder(machine, options)
            builder.getModulePassManager().run(module, builder)
            code = machine.emit_object(module)
            write(file, code)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _engines.append(engine)
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("run"))  # pyright: ignore[reportReturnType]

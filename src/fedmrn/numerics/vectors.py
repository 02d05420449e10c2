"""What kernels that write vector instructions of their own share: constants, one value in every lane, memory."""

from llvmlite import ir

_I32 = ir.IntType(32)


def in_all(kind: ir.VectorType, value: float) -> ir.Constant:
    """Return a constant vector with one value in every lane."""
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)


def splat(b: ir.IRBuilder, x: ir.Value, lanes: int) -> ir.Value:
    """Return a vector with x in every lane."""
    first = b.insert_element(ir.Constant(ir.VectorType(x.type, lanes), ir.Undefined), x, _I32(0))
    return b.shuffle_vector(first, first, in_all(ir.VectorType(_I32, lanes), 0))


def load_at(b: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    """Return what lies at an address, an integer of 64 bits that is a multiple of `align`."""
    found = b.load(b.inttoptr(address, kind.as_pointer()))
    found.align = align
    return found


def store_at(b: ir.IRBuilder, x: ir.Value, address: ir.Value, align: int) -> None:
    """Put x at an address, an integer of 64 bits that is a multiple of `align`."""
    b.store(x, b.inttoptr(address, x.type.as_pointer())).align = align

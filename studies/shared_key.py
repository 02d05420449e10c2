"""One noise key for all clients of a round: what masked sums of masks take, and what the mean of an update loses.

    python studies/shared_key.py [--elements N]

Sizes: one client's mask in integers of b bits, plus pads that cancel in the sum (modulo 2^b), packed by numpy; the sum
of all clients must be that of their masks. The pads are numpy's, so this is arithmetic, not security.
Error: clients code updates that agree in a share of their energy, under keys of their own or one; the mean is compared
with the mean update. `slope` is its share in the mean update, `error` the energy of the rest over that of this share.
"""

import argparse
import zlib
from collections.abc import Iterator
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedmrn.codecs import EncodeKeys, MaskedNoise
from fedmrn.methods import METHODS
from fedmrn.wire.layout import Group

CNN4 = 389_920  # coded elements
SPREAD = 0.3  # standard deviation of an update, in units of the noise's scale
ROUNDS = 8
Integers = NDArray[np.uint64]


def pack(values: Integers, bits: int) -> bytes:
    """Pack integers below 2^bits, least significant bit first."""
    planes = (values[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, count: int, bits: int) -> Integers:
    """Return what `pack` packed."""
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    values: Integers = (planes.astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(1, dtype=np.uint64)
    return values


def masked(clients: int, most: int, elements: int) -> tuple[int, list[bytes]]:
    """Return b, and what each client sends of its random mask times a weight of 1..most; their sum is checked."""
    bits, modulus = (clients * most).bit_length(), np.uint64(1 << (clients * most).bit_length())
    generator = np.random.default_rng(clients + most)
    vectors = [
        (generator.random(elements) < 0.25).astype(np.uint64) * np.uint64(generator.integers(1, most + 1))
        for _ in range(clients)
    ]
    total = np.sum(vectors, axis=0)
    for a in range(clients):  # a ring is enough to cancel; the protocol pads every pair
        pad = generator.integers(0, modulus, elements, np.uint64)
        vectors[a] = (vectors[a] + pad) % modulus
        vectors[(a + 1) % clients] = (vectors[(a + 1) % clients] + modulus - pad) % modulus
    sent = [pack(v, bits) for v in vectors]
    found = np.zeros(elements, np.uint64)
    for data in sent:
        found = (found + unpack(data, elements, bits)) % modulus
    if not np.array_equal(found, total):
        raise ArithmeticError("the pads did not cancel")
    return bits, sent


def errors(name: str, law: str, clients: int, agreement: float, elements: int) -> Iterator[tuple[float, float]]:
    """Yield (slope, error) for keys of one's own, then for a shared one, each the mean of some rounds."""
    codec = METHODS[name].scheme({"noise": law, "scale": 0.01}).codecs[Group.CODED]
    if not isinstance(codec, MaskedNoise):
        raise TypeError(f"{name} sends no mask over noise")
    generator = np.random.default_rng(1)
    spread = SPREAD * codec.noise.scale
    for shared in (False, True):
        found = []
        for number in range(ROUNDS):
            common = generator.standard_normal(elements) * agreement**0.5
            mean, wanted = np.zeros((2, elements))
            for client in range(clients):
                own = generator.standard_normal(elements) * (1 - agreement) ** 0.5
                u = ((common + own) * spread).astype(np.float32)
                key = number if shared else ROUNDS + number * clients + client
                body = codec.encode(u, EncodeKeys(key, 1 + number * clients + client))
                mean += codec.decode(body, elements, key) / clients
                wanted += u / clients
            slope = float(mean @ wanted / (wanted @ wanted))
            rest = mean - slope * wanted
            found.append((slope, float(rest @ rest / (slope**2 * (wanted @ wanted)))))
        slopes, rests = zip(*found, strict=True)
        yield fmean(slopes), fmean(rests)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--elements", type=int, default=CNN4, help="of the masks that are packed")
    elements = parser.parse_args().elements
    console = Console(width=110)
    sizes = Table("clients", "largest weight", "b", "bytes", "bits an element", "zlib -9")
    for clients in (10, 100):
        for most in (1, 15, 1000):
            bits, sent = masked(clients, most, elements)
            lengths = {len(data) for data in sent}
            small = len(zlib.compress(sent[0], 9))
            sizes.add_row(*map(str, (clients, most, bits, *lengths)), f"{8 * len(sent[0]) / elements:.4f}", str(small))
    console.print(sizes)
    means = Table("method", "noise", "clients", "agreement", "slope, own", "shared", "error, own", "shared ")
    part = min(elements, 1 << 16)
    for name, law in (("fedmrn", "uniform"), ("fedmrn-s", "uniform"), ("fedmrn-s", "bernoulli")):
        for clients in (10, 100):
            for agreement in (1.0, 0.1):
                (slope, error), (slope1, error1) = errors(name, law, clients, agreement, part)
                cells = (slope, slope1, error, error1)
                means.add_row(name, law, str(clients), str(agreement), *(f"{cell:.3f}" for cell in cells))
    console.print(means)


if __name__ == "__main__":
    main()

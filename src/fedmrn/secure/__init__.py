"""Secure aggregation: the server sees the sum of the clients' masks, and no client's own.

Pairwise additive masking (Bonawitz et al., CCS 2017): what hides a mask here is called a *pad*. All cryptography is of
two libraries, `cryptography` and `pycryptodome` (pip install "fedmrn[secure]"); nothing else of fedmrn imports them.

    records, session    what travels, and what a round's clients agree on
    neighbours          with whom a client shares where not with all, and what that risks
    keys, shares, pads  key agreement, Shamir's shares in sealed envelopes, the generator and its arithmetic
    lanes               numbers modulo 2^b, packed; reals in fixed point
    member, collector   a client's side and the server's, without a transport
    update              a frame as such numbers, and their sum as what the fold takes
    protect             the setting
"""

from fedmrn.secure.collector import Collector
from fedmrn.secure.member import SumMember
from fedmrn.secure.protect import SecureSum

__all__ = ["Collector", "SecureSum", "SumMember"]

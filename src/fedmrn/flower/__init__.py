"""FedMRN, and every other method of the table, as a Flower strategy; `fedmrn.flower.client` is a client's side.

Transport only: what is sent, checked and folded is the business of `fedmrn.server`, and training of `fedmrn.torch`.
The strategy runs without a training framework.
"""

from fedmrn.extras import explained
from fedmrn.federation.report import RoundReport

try:
    from fedmrn.flower.strategy import FedMRN
except ModuleNotFoundError as error:
    raise explained(error, "fedmrn.flower") from error

__all__ = ["FedMRN", "RoundReport"]
